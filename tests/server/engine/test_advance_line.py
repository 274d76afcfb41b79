"""Tokens of held sequences are fed in the order of each owner's arrival, none lost, none twice; owners share a step."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.engine.advance_line import AdvanceLine
from carousel.engine.columns import Advances
from carousel.errors import Overloaded
from carousel.shares import OwnerLimits


class Named:
    """A waiter that can be told apart."""

    def __init__(self, owner: str, number: int) -> None:
        self.owner = owner
        self.number = number

    def done(self) -> bool:
        return False

    def set_result(self, found: object, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


def make_line(max_rows: int = 4, max_lanes: int | None = None, max_queued: int | None = None) -> AdvanceLine:
    return AdvanceLine(max_rows, OwnerLimits(max_lanes=max_lanes, max_queued_turns=max_queued))


def add(line: AdvanceLine, owner: str, *numbers: int) -> None:
    for number in numbers:
        line.add(owner, 10 * number, 10 * number + 1, number, 3, Named(owner, number))


def names(taken: Advances | None) -> list[tuple[str, int]]:
    """Whose and which, checked against the other columns."""
    assert taken is not None
    found = []
    for index, waiter in enumerate(taken.waiters):
        assert isinstance(waiter, Named)
        assert taken.ids[index] == waiter.number
        assert (taken.rows[index], taken.next_rows[index]) == (10 * waiter.number, 10 * waiter.number + 1)
        found.append((waiter.owner, waiter.number))
    return found


def test_nothing_waits_at_first() -> None:
    assert make_line().pick() is None


def test_one_owner_has_the_whole_step() -> None:
    line = make_line(4)
    add(line, "ann", *range(6))
    assert names(line.pick()) == [("ann", number) for number in range(4)]
    assert line.num_waiting == 2
    assert names(line.pick()) == [("ann", 4), ("ann", 5)]
    assert line.pick() is None


def test_who_has_one_is_in_the_next_step() -> None:
    """However many another has waiting; what he leaves the other has."""
    line = make_line(4)
    add(line, "ann", *range(1000))
    add(line, "bob", 0)
    taken = names(line.pick())
    assert ("bob", 0) in taken
    assert len(taken) == 4


def test_owners_take_turns_where_a_step_has_not_one_for_each() -> None:
    """Who had none comes first."""
    line = make_line(2)
    for owner in "abcde":
        add(line, owner, 0, 1)
    order = [names(line.pick()) for _ in range(5)]
    assert [[owner for owner, _ in step] for step in order] == [
        list("ab"),
        list("cd"),
        list("ea"),
        list("bc"),
        list("de"),
    ]


def test_an_owner_runs_as_many_as_he_may() -> None:
    line = make_line(8, max_lanes=3)
    add(line, "ann", *range(10))
    assert len(names(line.pick())) == 3
    add(line, "bob", *range(10))
    assert collections.Counter(owner for owner, _ in names(line.pick())) == {"ann": 3, "bob": 3}


def test_an_owner_has_as_many_waiting_as_he_may() -> None:
    """Beyond it he is refused; others are not, and it is over when some were taken."""
    line = make_line(2, max_queued=3)
    add(line, "ann", 0, 1, 2)
    with pytest.raises(Overloaded) as error:
        add(line, "ann", 3)
    assert error.value.limit == "max_queued_turns_per_owner"
    add(line, "bob", 0)
    assert line.num_waiting == 4
    line.pick()
    add(line, "ann", 3)


def test_clear_names_all_who_wait() -> None:
    line = make_line(1)
    add(line, "ann", 0, 1)
    add(line, "bob", 0)
    waiters = line.clear()
    assert sorted((one.owner, one.number) for one in waiters if isinstance(one, Named)) == [
        ("ann", 0),
        ("ann", 1),
        ("bob", 0),
    ]
    assert line.num_waiting == 0
    assert line.pick() is None


OWNERS = st.sampled_from("abcdef")


@given(
    st.integers(1, 5),
    st.none() | st.integers(1, 4),
    st.lists(OWNERS | st.just("take"), max_size=80),
)
def test_nothing_is_lost_or_doubled(max_rows: int, max_lanes: int | None, events: list[str]) -> None:
    """In any order of arrivals and steps; every step is as full as the bounds allow, each owner's are in order, and
    nobody who waited at its beginning waits for more steps than there are owners."""
    line = make_line(max_rows, max_lanes)
    waiting: dict[str, collections.deque[int]] = collections.defaultdict(collections.deque)
    steps_without: collections.Counter[str] = collections.Counter()
    count = 0
    for event in [*events, *["take"] * len(events)]:
        if event != "take":
            add(line, event, count)
            waiting[event].append(count)
            count += 1
            continue
        taken = line.pick()
        present = {owner: len(numbers) for owner, numbers in waiting.items() if numbers}
        assert (taken is None) == (not present)
        if taken is None:
            continue
        most = min(max_rows, sum(min(num, max_lanes or max_rows) for num in present.values()))
        served = names(taken)
        assert len(served) == most
        for owner, number in served:
            assert waiting[owner].popleft() == number
        for owner in present:
            steps_without[owner] = 0 if any(one == owner for one, _ in served) else steps_without[owner] + 1
            assert steps_without[owner] < max(1, -(-6 // max_rows))
        assert line.num_waiting == sum(map(len, waiting.values()))
    assert not any(waiting.values())
