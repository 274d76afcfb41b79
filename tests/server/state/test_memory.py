"""Sessions end when their time has come, belong to their owner alone, and are bounded in every direction."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tests.fakes import FakeClock

from carousel.errors import InvalidRequest, Overloaded, SessionExists, SessionExpired, SessionNotFound
from carousel.metrics import Metrics
from carousel.state import memory
from carousel.state.memory import Lifetime, SessionTable
from carousel.turns import Snapshot

START = Snapshot(0, (), np.zeros(1, np.float32))
NEXT = replace(START, position=3)


@dataclass
class World:
    lifetime: Lifetime = Lifetime(idle_seconds=10, absolute_seconds=100, max_sessions=5)
    clock: FakeClock = field(default_factory=FakeClock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.table = SessionTable(self.lifetime, self.clock, Metrics(self.registry))

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"carousel_{name}", labels) or 0


@pytest.fixture
def world() -> World:
    return World()


def test_a_session_is_where_it_was_left(world: World) -> None:
    """What was saved is what is got, with times and revision moved on."""
    created = world.table.create("ann", "digest", START)
    world.clock.advance(4)
    saved = world.table.save(created, NEXT)
    got = world.table.get(created.id, "ann")
    assert got == saved
    assert (got.snapshot, got.revision) == (NEXT, 1)
    assert (got.created_at, got.updated_at, got.expires_at) == (1_000_000, 1_000_004, 1_000_014)


def test_made_ids_are_unguessable(world: World) -> None:
    """Ids that the table makes have 128 bits or more and are all different."""
    ids = [world.table.create("", "d", START).id for _ in range(5)]
    assert len(set(ids)) == 5
    assert all(len(one) * 6 >= 128 for one in ids)


@pytest.mark.parametrize("session_id", ["a", "x" * 128, "A-z_0.9~"])
def test_a_caller_may_choose_an_id(world: World, session_id: str) -> None:
    """A well-formed id is taken as it is, once."""
    assert world.table.create("ann", "d", START, session_id).id == session_id
    for owner in ("ann", "bob"):
        with pytest.raises(SessionExists):
            world.table.create(owner, "d", START, session_id)


@pytest.mark.parametrize("session_id", ["x" * 129, "a b", "a\n", "é", "a/b", "\0"])
def test_a_malformed_id_is_refused(world: World, session_id: str) -> None:
    """Anything else is InvalidRequest naming the field, and nothing is created."""
    with pytest.raises(InvalidRequest, match="^session_id: "):
        world.table.create("ann", "d", START, session_id)
    assert len(world.table) == 0


def test_an_idle_session_expires(world: World) -> None:
    """Unused for its idle time a session is gone, said to be expired; a moment before it is not."""
    session = world.table.create("ann", "d", START)
    world.clock.advance(9.999)
    assert world.table.get(session.id, "ann") == session
    world.clock.advance(0.001)
    with pytest.raises(SessionExpired):
        world.table.get(session.id, "ann")
    assert len(world.table) == 0


def test_looking_is_not_using(world: World) -> None:
    """Getting and listing do not prolong a session's life; a turn does."""
    session = world.table.create("ann", "d", START)
    world.clock.advance(9)
    world.table.list("ann", 0, 9)
    world.table.save(world.table.get(session.id, "ann"), NEXT)
    world.clock.advance(9)
    world.table.get(session.id, "ann")
    world.clock.advance(1)
    with pytest.raises(SessionExpired):
        world.table.get(session.id, "ann")


def test_an_old_session_expires_however_busy(world: World) -> None:
    """At its absolute age a session ends although it was used a moment ago."""
    session = world.table.create("ann", "d", START)
    for _ in range(99):
        world.clock.advance(1)
        session = world.table.save(session, NEXT) or pytest.fail("gone early")
    assert session.expires_at == session.created_at + 100
    world.clock.advance(1)
    with pytest.raises(SessionExpired):
        world.table.get(session.id, "ann")


def test_a_sweep_ends_exactly_those_that_are_due(world: World) -> None:
    """Idle ones, old ones and those that are both end once; the others live on."""
    world = World(Lifetime(idle_seconds=10, absolute_seconds=25, max_sessions=9))
    old = world.table.create("ann", "d", START, "old")
    world.clock.advance(9)
    old = world.table.save(old, NEXT) or pytest.fail("gone")
    world.clock.advance(9)
    old = world.table.save(old, NEXT) or pytest.fail("gone")
    world.table.create("ann", "d", START, "idle")
    world.clock.advance(6)
    young = world.table.create("ann", "d", START, "young")
    assert world.table.expire() == 0
    world.clock.advance(1)
    assert world.table.expire() == 1  # old
    world.clock.advance(3)
    assert world.table.expire() == 1  # idle
    assert world.table.list("ann", 0, 9) == [young]
    assert world.value("sessions_ended_total", reason="expired") == 2
    assert world.value("live_sessions") == 1


def test_another_owners_session_does_not_exist(world: World) -> None:
    """Getting, deleting and listing as somebody else is as if it were not there, alive or expired."""
    session = world.table.create("ann", "d", START, "hers")
    missing = _message(world, "nothing", "bob").replace("nothing", "hers")
    assert _message(world, session.id, "bob") == missing
    with pytest.raises(SessionNotFound):
        world.table.delete(session.id, "bob")
    assert world.table.list("bob", 0, 9) == []
    world.clock.advance(50)
    assert _message(world, session.id, "bob") == missing
    with pytest.raises(SessionExpired):
        world.table.get(session.id, "ann")


def _message(world: World, session_id: str, owner: str) -> str:
    with pytest.raises(SessionNotFound) as error:
        world.table.get(session_id, owner)
    return str(error.value)


def test_a_deleted_session_is_gone(world: World) -> None:
    """After a delete the id is unknown, not expired, and free."""
    session = world.table.create("ann", "d", START, "s")
    world.table.delete("s", "ann")
    with pytest.raises(SessionNotFound):
        world.table.delete("s", "ann")
    assert world.table.save(session, NEXT) is None
    assert world.table.create("ann", "d", START, "s").number != session.number
    assert world.value("sessions_ended_total", reason="deleted") == 1


def test_a_save_does_not_reach_a_namesake(world: World) -> None:
    """A turn that outlived its session does not write into a new one of the same id."""
    session = world.table.create("ann", "d", START, "s")
    world.table.delete("s", "ann")
    namesake = world.table.create("ann", "d", START, "s")
    assert world.table.save(session, NEXT) is None
    assert world.table.get("s", "ann") == namesake


@pytest.mark.parametrize("is_swept", [True, False])
def test_a_save_after_the_end_of_life_has_no_effect(world: World, is_swept: bool) -> None:
    """Whether the sweep came by or not, a session whose time passed during a turn is over."""
    session = world.table.create("ann", "d", START, "s")
    world.clock.advance(10)
    if is_swept:
        world.table.expire()
    assert world.table.save(session, NEXT) is None
    with pytest.raises(SessionExpired):
        world.table.get("s", "ann")


def test_the_number_of_live_sessions_is_bounded(world: World) -> None:
    """At the limit creation is refused with a hint, until one is deleted or has expired, swept or not."""
    for number in range(5):
        world.table.create("ann", "d", START, str(number))
    with pytest.raises(Overloaded) as refused:
        world.table.create("bob", "d", START)
    assert (refused.value.limit, refused.value.retry_seconds > 0) == ("max_sessions", True)
    world.table.delete("0", "ann")
    world.table.create("bob", "d", START)
    world.clock.advance(10)
    world.table.create("bob", "d", START)
    assert len(world.table) == 1


def test_an_expired_id_can_be_used_again(world: World) -> None:
    """A new session under an id that expired is simply there."""
    world.table.create("ann", "d", START, "s")
    world.clock.advance(10)
    again = world.table.create("ann", "d", START, "s")
    assert world.table.get("s", "ann") == again
    world.table.delete("s", "ann")
    with pytest.raises(SessionNotFound):
        world.table.get("s", "ann")


def test_pages_are_in_order_of_creation_and_skip_nothing(world: World) -> None:
    """Paging by number meets every session once, though some are used, created or deleted between pages."""
    world = World(replace(world.lifetime, max_sessions=100))
    made = [world.table.create("ann", "d", START, f"s{number}") for number in range(10)]
    world.table.create("bob", "d", START)
    seen, after = [], 0
    while page := world.table.list("ann", after, 3):
        seen.extend(session.id for session in page)
        after = page[-1].number
        if len(seen) == 3:
            world.table.save(made[0], NEXT)
            world.table.delete("s4", "ann")
            world.table.create("ann", "d", START, "new")
    assert seen == ["s0", "s1", "s2", "s3", "s5", "s6", "s7", "s8", "s9", "new"]


def test_memory_of_expired_ids_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the expired only the newest are remembered as such; older ones are unknown."""
    monkeypatch.setattr(memory, "_MAX_REMEMBERED", 3)
    for number in range(5):
        world.table.create("ann", "d", START, str(number))
        world.clock.advance(1)
    world.clock.advance(10)
    assert world.table.expire() == 5
    for number in range(5):
        with pytest.raises(SessionNotFound if number < 2 else SessionExpired):
            world.table.get(str(number), "ann")
    assert len(world.table._expired) == 3


def test_nothing_is_left_of_sessions_that_are_gone(world: World) -> None:
    """After all have ended every index is empty."""
    for round_number in range(3):
        for number in range(5):
            world.table.create(f"owner {number}", "d", START, f"{round_number}-{number}")
        world.table.delete(f"{round_number}-0", "owner 0")
        world.clock.advance(10)
        world.table.expire()
    assert (world.table._sessions, world.table._by_age, world.table._by_owner) == ({}, {}, {})
    assert world.value("sessions_created_total") == 15
    assert world.value("live_sessions") == 0
