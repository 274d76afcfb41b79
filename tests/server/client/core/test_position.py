"""A session's position while turns begin, end and are dropped."""

from carousel.client.core.position import KnownPosition


def test_a_turn_that_is_dropped_is_given_up() -> None:
    """The position is then unknown, the next turn is alone, and earlier turns leave nothing."""
    known = KnownPosition(3)
    for _ in range(100):
        assert known.begin().is_alone
    assert len(known._open) == 1
    turn = known.begin()
    assert turn.expected_position is None
    known.succeed(turn, 5)
    assert known.value == 5
    assert known.begin().expected_position == 5


def test_a_turn_ends_once() -> None:
    """Later reports about it change nothing."""
    known = KnownPosition(0)
    turn = known.begin()
    known.succeed(turn, 2)
    known.give_up(turn)
    known.succeed(turn, 9)
    assert known.value == 2


def test_turns_that_overlapped_tell_nothing() -> None:
    """Whichever ends last, the position is unknown; the next turn sets it again, and so does `look`."""
    known = KnownPosition(0)
    first, second = known.begin(), known.begin()
    assert (first.is_alone, second.is_alone) == (False, False)
    assert known.look() is None
    known.succeed(first, 1)
    known.succeed(second, 2)
    assert known.value is None
    known.learn(2, known.look())
    assert known.value == 2
