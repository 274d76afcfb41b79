"""The lines of the soak: a planted leak is found in noise, and noise alone does not count as a leak."""

import random

import pytest
from trials.process_samples import Samples
from trials.slopes import after_first_quarter, fit_slope
from trials.soak import MAX_BYTES_PER_TURN, bytes_per_turn, files_per_thousand_turns


def _samples(leak: float, *, files_per_turn: float = 0.0, seed: int = 0) -> Samples:
    """Half an hour at 150 turns a second: resident memory in pages, with noise that persists for a while."""
    dice = random.Random(seed)
    samples = Samples()
    drift = 0.0
    for second in range(1800):
        turns = 150.0 * second
        warm_up = 30e6 * min(1.0, second / 300)
        drift = 0.9 * drift + dice.gauss(0, 100_000)
        samples.turns.append(turns)
        samples.resident_bytes.append((200e6 + warm_up + leak * turns + drift) // 4096 * 4096)
        samples.open_files.append(60 + dice.randint(0, 20) + int(files_per_turn * turns))
    return samples


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_100_bytes_a_turn_is_found(seed: int) -> None:
    """It is above the bound, and reported with its size."""
    assert 95 < bytes_per_turn(_samples(100, seed=seed)) < 110


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_does_not_leak_holds_the_bound(seed: int) -> None:
    """Its memory grew during the warm-up, and goes up and down."""
    assert bytes_per_turn(_samples(0, seed=seed)) < MAX_BYTES_PER_TURN / 2


@pytest.mark.parametrize("seed", range(20))
def test_clients_that_come_and_go_are_no_leak_of_files(seed: int) -> None:
    """The slope is exactly 0 where noise explains it."""
    assert files_per_thousand_turns(_samples(0, seed=seed)) == 0


def test_a_file_left_open_now_and_then_is_found() -> None:
    """One in ten thousand turns."""
    assert 0.05 < files_per_thousand_turns(_samples(0, files_per_turn=0.0001)) < 0.1


def test_the_bounds_of_a_slope_hold_in_about_as_many_cases_as_they_say() -> None:
    """Of 400 noisy lines with a slope of 2, the upper bound with 95 % confidence is above 2 in about 380."""
    dice = random.Random(1)
    xs = [float(x) for x in range(20)]
    slopes = [fit_slope(xs, [2 * x + dice.gauss(0, 5) for x in xs]) for _ in range(400)]
    assert 365 <= sum(slope.upper(0.95) > 2 for slope in slopes) <= 393
    assert 365 <= sum(slope.lower(0.95) < 2 for slope in slopes) <= 393


def test_a_straight_line_has_one_slope() -> None:
    """Without noise both bounds are the slope itself."""
    xs = [1.0, 2.0, 4.0, 8.0]
    slope = fit_slope(xs, [3 * x + 1 for x in xs])
    assert slope.upper(0.95) == pytest.approx(3)
    assert slope.lower(0.999) == pytest.approx(3)


def test_too_few_samples_have_no_slope() -> None:
    """There are two points, or the number of turns does not change."""
    with pytest.raises(ValueError, match="too few samples"):
        fit_slope([1, 2], [1, 2])
    with pytest.raises(ValueError, match="too few samples"):
        fit_slope([5, 5, 5, 5], [1, 2, 3, 4])


def test_the_first_quarter_does_not_count() -> None:
    """Of eight samples, six remain."""
    assert after_first_quarter(range(8), range(8, 16)) == (range(2, 8), range(10, 16))
