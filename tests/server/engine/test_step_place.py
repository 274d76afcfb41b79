"""Steps run in the event loop while nearly all of them are short, and do not go to and fro."""

from carousel.engine.step_place import StepPlace

SHORT, BETWEEN, LONG = 0.1e-3, 0.85e-3, 2e-3


def note(place: StepPlace, seconds: float, count: int) -> int:
    """How often the place changed."""
    return sum(place.note(seconds) for _ in range(count))


def test_it_begins_in_the_thread() -> None:
    """A look at few steps is enough, but not at none."""
    place = StepPlace()
    assert not place.is_in_loop
    assert note(place, SHORT, 63) == 0
    assert not place.is_in_loop
    assert place.note(SHORT)
    assert place.is_in_loop


def test_long_steps_stay_in_the_thread() -> None:
    place = StepPlace()
    assert note(place, LONG, 1000) == 0
    assert not place.is_in_loop


def test_between_the_bounds_nothing_changes() -> None:
    """Neither in nor out: a step that is a little too long to come in is short enough to stay."""
    place = StepPlace()
    assert note(place, BETWEEN, 1000) == 0
    assert not place.is_in_loop
    note(place, SHORT, 1000)
    assert place.is_in_loop
    assert note(place, BETWEEN, 1000) == 0
    assert place.is_in_loop


def test_a_few_long_ones_lead_out_and_only_many_short_ones_back() -> None:
    """One in a hundred is told at the next look; it is forgotten when the last 512 are better."""
    place = StepPlace()
    note(place, SHORT, 512)
    assert place.is_in_loop
    note(place, LONG, 5)
    assert note(place, SHORT, 59) == 0
    assert place.is_in_loop
    note(place, LONG, 4)
    assert note(place, SHORT, 60) == 1
    assert not place.is_in_loop
    assert note(place, SHORT, 384) == 0
    assert note(place, SHORT, 512) == 1
    assert place.is_in_loop
