"""A short chaos: servers are killed, paused and restarted under load; nothing acknowledged is lost or doubled."""

from pathlib import Path

import pytest
from trials.disturbed_run import count_different_in, run_and_check
from trials.histories import History, Line, Turn, Wish
from trials.plans import Plan
from trials.worlds import RedisWorld, Replica, SqliteWorld, World, has_programs_of_redis_world

pytestmark = pytest.mark.slow

PLAN = Plan(seed=7, num_turns=10, vocabulary_size=256, pause_seconds=0.8, idle_seconds=60)
CROWD = {"stepwise": 4, "blocking": 2, "asyncio": 2, "overlapping": 2, "lifecycles": 2, "shared": 2}
MUST_BE_ZERO = ("lost", "doubled", "different", "ended_in_use", "unfinished", "library_unfinished")


def _check(world: World, replica: Replica) -> None:
    histories, totals = run_and_check(world, PLAN, CROWD, replica)
    assert [history.trouble for history in histories] == [""] * sum(CROWD.values())
    assert {name: totals[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0)
    assert totals["kills"] > 0
    assert totals["turns"] >= PLAN.num_turns * (sum(CROWD.values()) - CROWD["lifecycles"])


@pytest.fixture(scope="module")
def replica(bundle: Path) -> Replica:
    return Replica(bundle, PLAN.idle_seconds)


def test_a_server_on_sqlite_is_killed_and_goes_on(replica: Replica, tmp_path: Path) -> None:
    """After kill -9 and a restart on the same file, every turn of every kind of client exists once, as on a quiet
    server."""
    _check(SqliteWorld(replica, tmp_path), replica)


@pytest.mark.skipif(
    not has_programs_of_redis_world(),
    reason="redis-server, haproxy or libfaketime is not installed (Debian packages redis-server, haproxy, faketime)",
)
def test_replicas_behind_a_balancer_are_killed_and_paused(replica: Replica, tmp_path: Path) -> None:
    """Any replica goes on with any session, through kills, pauses beyond the lease and restarts of Redis, though the
    replicas' clocks are ten minutes apart and connections drop answers."""
    _check(RedisWorld(replica, tmp_path), replica)


def test_the_quiet_server_tells_other_answers_from_its_own(replica: Replica) -> None:
    """A turn with an invented answer counts as different; the same turn with the quiet server's own answer does not."""
    wish = Wish("predict", (65, 66), 0, 0)
    made_up = History("stepwise", [Line([Turn(wish, 2, (1, -0.5))])])
    assert count_different_in([made_up], replica) == 1
    empty = History("stepwise", [Line([])])
    assert count_different_in([empty], replica) == 0
