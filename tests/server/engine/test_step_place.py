"""Steps run in the event loop while nearly all of them are short, take as many rows as that allows, and seldom change
place."""

from collections.abc import Callable

from carousel.engine.step_place import StepPlace

MOST = 64
Seconds = Callable[[int], float]


def small(num_rows: int) -> float:
    """A model for which 64 rows take more than a millisecond."""
    return 0.2e-3 + 0.02e-3 * num_rows


def tiny(num_rows: int) -> float:
    return 0.05e-3 + 0.001e-3 * num_rows


def large(num_rows: int) -> float:
    """A model for which even a few rows take a millisecond."""
    return 2e-3 + 0.3e-3 * num_rows


def middling(num_rows: int) -> float:
    """A model for which a dozen rows take nearly a millisecond."""
    return 0.6e-3 + 0.03e-3 * num_rows


def run(place: StepPlace, seconds: Seconds, count: int, num_asking: int = MOST) -> int:
    """Runs so many steps while so many ask, and returns how often the place changed."""
    num_changes = 0
    for _ in range(count):
        num_rows = min(num_asking, place.max_rows or MOST)
        num_changes += place.note(seconds(num_rows), num_rows, num_asking - num_rows)
    return num_changes


def test_it_begins_in_the_thread() -> None:
    """A look at a few steps is enough for the loop, but not at none."""
    place = StepPlace(MOST)
    assert run(place, small, 63) == 0
    assert not place.is_in_loop
    assert run(place, small, 1) == 1
    assert place.is_in_loop


def test_a_step_takes_as_many_rows_as_are_short() -> None:
    """A step takes more and more rows while they take well below a millisecond, and all where that holds for all."""
    place = StepPlace(MOST)
    assert run(place, small, 2000) == 1
    assert 16 <= place.max_rows <= 40
    assert small(place.max_rows) <= 1e-3
    place = StepPlace(MOST)
    assert run(place, tiny, 2000) == 1
    assert place.max_rows == MOST


def test_steps_that_would_be_cut_to_a_few_rows_run_in_the_thread() -> None:
    """Where many ask, a dozen rows cost nearly as much as all: the loop is tried less and less. Where few ask, they get
    it."""
    place, num_in_loop = StepPlace(MOST), 0
    for _ in range(20_000):
        run(place, middling, 1)
        num_in_loop += place.is_in_loop
    assert num_in_loop < 2000
    for num_asking in (6, 8):  # all that ask, even where a step may take just as many
        place = StepPlace(MOST)
        assert run(place, middling, 2000, num_asking) == 1
        assert place.is_in_loop


def test_long_steps_stay_in_the_thread() -> None:
    """This holds whether many ask or one."""
    for num_asking in (1, MOST):
        place = StepPlace(MOST)
        assert run(place, large, 1000, num_asking) == 0
        assert not place.is_in_loop


def test_steps_that_become_long_take_fewer_rows_then_go_to_the_thread() -> None:
    """They are tried again in the loop, after a wait that becomes longer."""
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
    """A step that is short in the thread and long in the loop is tried less and less."""
    place, num_tries = StepPlace(MOST), 0
    for _ in range(20_000):
        num_rows = place.max_rows or 8
        num_tries += place.note(2e-3 if place.is_in_loop else 0.5e-3, num_rows, 0) and place.is_in_loop
    assert 3 < num_tries < 12


def test_one_long_step_in_two_hundred_is_nothing() -> None:
    """Three in a hundred do matter."""
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
