"""Places among the open calls: one owner may have all, several share them, and only idle calls are closed for
others."""

import random

import pytest

from carousel.errors import Overloaded
from carousel.sessions.streams import Place, StreamBounds, Streams
from carousel.shares import OwnerLimits


class Hall:
    """Streams with a list of the owners whose calls were closed."""

    def __init__(self, max_streams: int, reserved: int = 0, max_per_owner: int | None = None) -> None:
        self.streams = Streams(StreamBounds(max_streams, reserved, OwnerLimits(max_calls=max_per_owner)))
        self.closed: list[str] = []

    def enter(self, owner: str, *, is_idle: bool = False, name: str = "") -> Place:
        place = self.streams.enter(owner, lambda: self.closed.append(name or owner))
        if is_idle:
            self.streams.rest(place)
        return place

    def refused(self, owner: str) -> str:
        with pytest.raises(Overloaded) as refused:
            self.enter(owner)
        return refused.value.limit


def test_an_owner_alone_has_all_and_no_more() -> None:
    """His newest call is refused even while his others are idle: none of them is closed for himself."""
    hall = Hall(3, reserved=5)
    places = [hall.enter("ann", is_idle=True) for _ in range(3)]
    assert hall.refused("ann") == "max_streams"
    hall.streams.leave(places[0])
    hall.enter("ann")
    assert hall.closed == []


def test_who_comes_late_gets_the_place_idle_for_longest() -> None:
    """The place comes from the owner with the most, one at a time, until the newcomer has his share."""
    hall = Hall(4)
    hall.enter("ann", name="busy")
    first = hall.enter("ann", is_idle=True, name="first")
    hall.enter("ann", is_idle=True, name="second")
    hall.enter("ann", is_idle=True, name="third")
    hall.streams.wake(first)
    hall.streams.rest(first)  # now it is the one that has been idle for the shortest time
    hall.enter("bob")
    hall.enter("bob")
    assert hall.closed == ["second", "third"]
    assert hall.refused("bob") == "max_streams"


def test_a_call_that_works_is_not_closed() -> None:
    """Without idle calls, the newcomer takes from the reserve, and beyond it is refused."""
    hall = Hall(4, reserved=1)
    woken = hall.enter("ann", is_idle=True)
    hall.streams.wake(woken)
    for _ in range(3):
        hall.enter("ann")
    hall.enter("bob")
    assert hall.refused("bob") == "max_streams"
    assert hall.closed == []


def test_the_reserve_is_for_those_below_their_share() -> None:
    """An owner with his share does not get it, nor does the one with the most."""
    hall = Hall(4, reserved=10)
    for owner in ("ann", "ann", "bob", "bob"):
        hall.enter(owner)
    assert hall.refused("ann") == hall.refused("bob") == "max_streams"
    hall.enter("cyd")
    hall.enter("cyd")  # with one he was below 4 / 3
    assert hall.refused("cyd") == "max_streams"


def test_the_furthest_above_his_share_who_idles_gives_way() -> None:
    """The owner with the most has no idle call: the next one above the share gives way, and never one who is not above
    it."""
    hall = Hall(9)
    for _ in range(5):
        hall.enter("ann")
    for _ in range(3):
        hall.enter("bob", is_idle=True)
    hall.enter("cyd", is_idle=True)
    hall.enter("dan")
    assert hall.closed == ["bob"]
    hall = Hall(4)
    for _ in range(3):
        hall.enter("ann")
    hall.enter("bob", is_idle=True)
    assert hall.refused("cyd") == "max_streams"
    hall = Hall(3)
    for _ in range(2):
        hall.enter("ann")
    hall.enter("bob", is_idle=True)  # exactly his share of three
    assert hall.refused("cyd") == "max_streams"
    assert hall.closed == []


def test_the_bound_of_one_owner_is_named() -> None:
    """This holds even while there is room for all, and for each owner by himself."""
    hall = Hall(10, max_per_owner=2)
    for owner in ("ann", "bob"):
        places = [hall.enter(owner) for _ in range(2)]
        assert hall.refused(owner) == "max_streams_per_owner"
        hall.streams.leave(places[0])
        hall.enter(owner)


def test_a_place_is_left_once() -> None:
    """A call whose place was taken leaves and rests without effect; in the end no place is held."""
    hall = Hall(1)
    taken = hall.enter("ann", is_idle=True)
    with pytest.raises(Overloaded):
        hall.enter("ann")
    hall = Hall(2)
    taken = [hall.enter("ann", is_idle=True) for _ in range(2)][0]
    newcomer = hall.enter("bob")
    hall.streams.rest(taken)
    hall.streams.leave(taken)
    hall.streams.leave(taken)
    assert repr(hall.streams) == "Streams(2 of 2 taken)"
    assert [len(resting) for resting in hall.streams._idle.values()] == [1]
    hall.streams.leave(newcomer)
    assert repr(hall.streams) == "Streams(1 of 2 taken)"


def test_whatever_happens_the_bounds_hold() -> None:
    """Calls come, go and rest at random: bound and reserve hold, no working call is closed, and an owner without calls
    gets in while one above his share idles."""
    random.seed(7)
    bounds = StreamBounds(12, 3)
    streams = Streams(bounds)
    places: dict[Place, bool] = {}  # with whether it is idle

    def enter(owner: str) -> None:
        mine: list[Place] = []

        def close() -> None:
            assert places.pop(mine[0])

        before = {one.owner for one, is_idle in places.items() if is_idle}
        counts = {one: sum(place.owner == one for place in places) for one in before}
        try:
            mine.append(streams.enter(owner, close))
            places[mine[0]] = False
        except Overloaded:
            used = sum(place.owner == owner for place in places)
            num_owners = len({place.owner for place in places} | {owner})
            assert used >= 12 / num_owners or all(count <= 12 / num_owners for count in counts.values())

    for _ in range(5000):
        action = random.random()
        if action < 0.6 or not places:
            enter(random.choice("aaaabbcde"))
        else:
            place = random.choice(list(places))
            if action < 0.7:
                del places[place]
                streams.leave(place)
            else:
                places[place] = action < 0.9
                (streams.rest if places[place] else streams.wake)(place)
        assert streams._shares.total == len(places) <= 15
    assert sum(map(len, streams._idle.values())) == sum(places.values())
