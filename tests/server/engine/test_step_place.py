"""Steps run in the event loop while nearly all of them are short, take as many rows there as that allows, and do not go
to and fro."""

from collections.abc import Callable

from carousel.engine.step_place import StepPlace

MOST = 64
Seconds = Callable[[int], float]


def small(num_rows: int) -> float:
    """A model of which 64 rows are more than a millisecond."""
    return 0.2e-3 + 0.02e-3 * num_rows


def tiny(num_rows: int) -> float:
    return 0.05e-3 + 0.001e-3 * num_rows


def large(num_rows: int) -> float:
    """A model of which not even a few rows are a millisecond."""
    return 2e-3 + 0.3e-3 * num_rows


def middling(num_rows: int) -> float:
    """A model of which a dozen rows are nearly a millisecond."""
    return 0.6e-3 + 0.03e-3 * num_rows


def run(place: StepPlace, seconds: Seconds, count: int, num_asking: int = MOST) -> int:
    """So many steps while so many ask; how often the place changed."""
    num_changes = 0
    for _ in range(count):
        num_rows = min(num_asking, place.max_rows or MOST)
        num_changes += place.note(seconds(num_rows), num_rows, num_asking - num_rows)
    return num_changes


def test_it_begins_in_the_thread() -> None:
    """A look at few steps is enough, but not at none."""
    place = StepPlace(MOST)
    assert run(place, small, 63) == 0
    assert not place.is_in_loop
    assert run(place, small, 1) == 1
    assert place.is_in_loop


def test_a_step_takes_as_many_rows_as_are_short() -> None:
    """More and more, while they are well below a millisecond; all there are where all are."""
    place = StepPlace(MOST)
    assert run(place, small, 2000) == 1
    assert 16 <= place.max_rows <= 40
    assert small(place.max_rows) <= 1e-3
    place = StepPlace(MOST)
    assert run(place, tiny, 2000) == 1
    assert place.max_rows == MOST


def test_steps_that_would_be_cut_to_a_few_rows_run_in_the_thread() -> None:
    """Where many ask: a dozen rows cost nearly as much as all. The loop is tried less and less. Few have it."""
    place, num_in_loop = StepPlace(MOST), 0
    for _ in range(20_000):
        run(place, middling, 1)
        num_in_loop += place.is_in_loop
    assert num_in_loop < 2000
    for num_asking in (6, 8):  # all that ask, also where it is as many as a step may take
        place = StepPlace(MOST)
        assert run(place, middling, 2000, num_asking) == 1
        assert place.is_in_loop


def test_long_steps_stay_in_the_thread() -> None:
    """Whether many ask or one."""
    for num_asking in (1, MOST):
        place = StepPlace(MOST)
        assert run(place, large, 1000, num_asking) == 0
        assert not place.is_in_loop


def test_steps_that_become_long_take_fewer_rows_then_go_to_the_thread() -> None:
    """And are tried again in the loop, after a while that becomes longer."""
    place = StepPlace(MOST)
    run(place, tiny, 1000)
    run(place, small, 1000)
    assert place.is_in_loop
    assert small(place.max_rows) <= 1e-3
    assert run(place, large, 1000) == 1
    assert not place.is_in_loop
    assert run(place, small, 1000) == 1
    assert place.is_in_loop


def test_where_the_loop_is_slow_tries_become_rare() -> None:
    """A step that is short in the thread and long in the loop is not tried again and again."""
    place, num_tries = StepPlace(MOST), 0
    for _ in range(20_000):
        num_rows = place.max_rows or 8
        num_tries += place.note(2e-3 if place.is_in_loop else 0.5e-3, num_rows, 0) and place.is_in_loop
    assert 3 < num_tries < 12


def test_one_long_step_in_two_hundred_is_nothing() -> None:
    """Three in a hundred are."""
    place = StepPlace(MOST)
    run(place, tiny, 2000)
    for _ in range(10):
        place.note(5e-3, MOST, 0)
        run(place, tiny, 199)
    assert place.max_rows == MOST
    for _ in range(10):
        place.note(5e-3, MOST, 0)
        run(place, tiny, 30)
    assert place.max_rows < MOST
