"""A short chaos: servers are killed, paused and restarted under load; nothing acknowledged is lost or doubled."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.child_process import find_program
from trials.chaos import RedisWorld, SqliteWorld, World, disturb, run_undisturbed
from trials.chaos_clients import Plan, compare

PLAN = Plan(seed=7, num_sessions=6, num_turns=8, vocabulary_size=256, pause_seconds=1.0, is_disturbed=True)


def _check(world: World, bundle: Path) -> None:
    undisturbed = run_undisturbed(bundle, PLAN)
    with world.running():
        histories, num_kills = disturb(world, PLAN)
    assert num_kills > 0
    assert [history.trouble for history in histories] == [""] * PLAN.num_sessions
    totals = compare(histories, undisturbed)
    assert totals["turns"] == PLAN.num_sessions * PLAN.num_turns
    assert (totals["lost"], totals["doubled"], totals["different"]) == (0, 0, 0)


def test_a_server_on_sqlite_is_killed_and_goes_on(bundle: Path, tmp_path: Path) -> None:
    """kill -9 and a start on the same file: every session's tokens are those of an undisturbed run."""
    _check(SqliteWorld(bundle, tmp_path), bundle)


@pytest.mark.skipif(
    find_program("redis-server") is None or find_program("haproxy") is None,
    reason="redis-server or haproxy is not installed (Debian packages of these names)",
)
def test_replicas_behind_a_balancer_are_killed_and_paused(bundle: Path, tmp_path: Path) -> None:
    """Any replica goes on with any session, through kills, pauses beyond the lease and restarts of Redis."""
    _check(RedisWorld(bundle, tmp_path), bundle)


def test_the_checker_finds_what_it_looks_for(bundle: Path) -> None:
    """A lost, a doubled and a different turn in the histories are each counted."""
    expected = run_undisturbed(bundle, replace(PLAN, num_sessions=1))
    (history,) = expected
    assert compare(expected, expected)["lost"] == 0
    lost = replace(history, turns=history.turns[:-1])
    assert compare([lost], expected) | {"turns": 0} == {
        "turns": 0,
        "retries": 0,
        "lost": 1,
        "doubled": 1,
        "different": 0,
    }
    doubled = replace(history, final_position=history.final_position + 1)
    assert compare([doubled], expected)["doubled"] == 1
    other = replace(history.turns[3], token_ids=(0, *history.turns[3].token_ids))
    different = replace(history, turns=[*history.turns[:3], other, *history.turns[4:]])
    assert compare([different], expected)["different"] == 1
