"""A long step waits a little for those who were just answered, and less where they do not come."""

from carousel.engine.gathering import Gathering

STEP = 0.020
MOST = 64


def gathering(num_rows: int = 49, num_waiting: int = 15, seconds: float = STEP) -> Gathering:
    """Makes the state after a step of so many rows that ended at 0 while others waited."""
    made = Gathering(MOST)
    made.note(seconds, 0.0, num_rows, num_waiting)
    return made


def test_the_few_wait_for_the_many() -> None:
    """The step waits until all earlier ones are there, and at most half a step."""
    one = gathering()
    assert one.seconds_left(0.001, 15) == STEP / 2 - 0.001
    assert one.seconds_left(0.004, 40) > 0
    assert one.seconds_left(0.005, 64) == 0
    assert gathering().seconds_left(STEP / 2, 15) == 0


def test_a_step_that_is_full_waits_for_nobody() -> None:
    """This holds however many more there are."""
    one = gathering(64, 1000)
    assert one.seconds_left(0.0, 64) == 0
    assert one.seconds_left(0.0, 63) > 0


def test_nobody_waits_in_vain() -> None:
    """A step does not wait where steps are short, where no row is missing, or when all are there at once."""
    assert gathering(seconds=0.001).seconds_left(0.0001, 15) == 0
    assert gathering().seconds_left(0.001, 0) == 0
    assert gathering(1, 0).seconds_left(0.001, 1) == 0


def test_what_was_in_vain_is_tried_for_shorter() -> None:
    """A wait that was in vain becomes shorter, and longer again after one that was not."""
    one = gathering(2, 0)
    waits = []
    for _ in range(20):
        waits.append(one.seconds_left(0.0, 1))
        assert one.seconds_left(STEP, 1) == 0
        one.note(STEP, 0.0, 2, 0)
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] < STEP / 100
    for _ in range(20):
        one.seconds_left(0.0, 1)
        assert one.seconds_left(0.0, 2) == 0
    assert one.seconds_left(0.0, 1) == STEP / 2


def test_those_who_stay_away_are_forgotten() -> None:
    """They are forgotten after a few steps without them."""
    one = gathering(64, 0)
    for _ in range(20):
        one.note(STEP, 0.0, 1, 0)
    assert one.seconds_left(0.0, 1) == 0
