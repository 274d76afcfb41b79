"""Who must go when a store is full, decided without one."""

from collections.abc import Iterator

import pytest

from carousel.errors import Overloaded
from carousel.shares import OwnerLimits
from carousel.state.room import Evictable, Room
from carousel.state.store import Capacity


def _walk(owner: str) -> Iterator[Evictable]:
    """Every owner has sessions of 100 bytes that no turn holds."""
    return (Evictable(owner, f"{owner}{number}", 100) for number in range(9))


def _nobody(owner: str) -> Iterator[Evictable]:
    raise AssertionError(f"{owner} was asked")


def _ids(victims: list[Evictable]) -> list[str]:
    return [victim.id for victim in victims]


def test_what_can_never_fit_is_refused_at_once() -> None:
    """Without a look at anybody's sessions."""
    room = Room(Capacity(5, 1_000, True, OwnerLimits(max_sessions=3)), _nobody)
    room.change("ann", 3, 900)
    for num_sessions, num_bytes, limit in ((1, 1_001, "max_session_bytes"), (4, 0, "max_sessions_per_owner")):
        with pytest.raises(Overloaded) as refused:
            room.make("bob", num_sessions, num_bytes)
        assert refused.value.limit == limit


def test_what_fits_costs_nobody_anything() -> None:
    """Up to the limit itself; an exceeded limit only affects owners that want more."""
    room = Room(Capacity(5, 1_000, evicts=True), _nobody)
    room.change("ann", 4, 900)
    assert room.make("bob", 1, 100) == []
    room.change("ann", 2, 0)
    assert room.is_short("bob", 1, 0)
    assert not room.is_short("bob", 0, 100)


def test_as_many_go_as_it_takes_and_nothing_is_counted_yet() -> None:
    """Of who has most, until another has most; the caller ends them."""
    room = Room(Capacity(99, 1_000, evicts=True), _walk)
    room.change("ann", 5, 500)
    room.change("bob", 4, 400)
    assert _ids(room.make("cid", 1, 400)) == ["ann0", "ann1", "bob0"]
    assert (room.sessions.total, room.bytes.total, room.sessions.used("ann")) == (9, 900, 5)


def test_an_owner_at_his_share_makes_room_of_his_own() -> None:
    """Who is below it does not, where another is above it."""
    room = Room(Capacity(6, 10_000, evicts=True), _walk)
    for owner, count in (("ann", 3), ("bob", 2), ("cid", 1)):
        room.change(owner, count, 100 * count)
    assert [_ids(room.make(owner, 1, 100)) for owner in ("ann", "bob", "cid", "dan")] == [
        ["ann0"],
        ["bob0"],
        ["ann0"],
        ["ann0"],
    ]


def test_an_owners_own_bound_is_nobody_elses_matter() -> None:
    """An owner at its limit loses its own, however much others have."""
    room = Room(Capacity(99, 10_000, True, OwnerLimits(max_bytes=1_200)), _walk)
    room.change("ann", 1, 100)
    room.change("bob", 9, 1_100)
    assert _ids(room.make("ann", 1, 1_150)) == ["ann0"]


def test_where_nobody_may_be_evicted_nobody_is() -> None:
    """Neither for what is new, nor because what there is is too much."""
    room = Room(Capacity(2, 1_000, evicts=False), _nobody)
    room.change("ann", 3, 2_000)
    assert room.find_excess() is None
    with pytest.raises(Overloaded, match="3 sessions are live"):
        room.make("bob", 1, 10)


def test_the_excess_is_found_bound_by_bound() -> None:
    """First that of an owner beyond his own, then that of all together: of who has most."""
    room = Room(Capacity(99, 1_000, True, OwnerLimits(max_bytes=800)), _walk)
    room.change("ann", 9, 900)
    room.change("bob", 3, 300)
    excess = []
    while (found := room.find_excess()) is not None:
        excess.append(found.owner)
        room.change(found.owner, -1, -found.weight)
    assert excess == ["ann", "ann"]
    room.change("bob", 5, 450)
    assert [found.owner for found in [room.find_excess()] if found] == ["bob"]
