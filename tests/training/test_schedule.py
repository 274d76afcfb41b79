"""The learning rate follows its schedule over a run."""

import itertools

import pytest

from carousel_training.schedule import ONE_CYCLE_START, rate_factor
from carousel_training.settings import OptimizerSettings


def test_one_cycle_rises_and_falls() -> None:
    """The rate starts low, peaks once, at the end of the warm-up, and ends at the final fraction."""
    settings = OptimizerSettings(schedule="one-cycle", warmup_fraction=0.25, final_fraction=0.01)
    assert rate_factor(settings, 0.0) == pytest.approx(ONE_CYCLE_START)
    assert rate_factor(settings, 0.25) == pytest.approx(1.0)
    assert rate_factor(settings, 1.0) == pytest.approx(0.01)
    factors = [rate_factor(settings, index / 100) for index in range(101)]
    assert all(a < b for a, b in itertools.pairwise(factors[:26]))
    assert all(a > b for a, b in itertools.pairwise(factors[25:]))


def test_cosine_warms_up_in_a_straight_line() -> None:
    """The rate is half the peak halfway through the warm-up, and the mean of peak and end halfway down."""
    settings = OptimizerSettings(schedule="cosine", warmup_fraction=0.2, final_fraction=0.0)
    assert rate_factor(settings, 0.1) == pytest.approx(0.5)
    assert rate_factor(settings, 0.6) == pytest.approx(0.5)
    assert rate_factor(settings, 0.0) > 0.0


def test_constant_stays() -> None:
    """The rate does not change after the warm-up."""
    settings = OptimizerSettings(schedule="constant", warmup_fraction=0.0)
    assert {rate_factor(settings, share) for share in (0.0, 0.5, 1.0)} == {1.0}


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_a_run_over_its_budget_keeps_the_last_rate(schedule: str) -> None:
    """A progress above 1 counts as 1."""
    settings = OptimizerSettings.model_validate({"schedule": schedule})
    assert rate_factor(settings, 1.7) == rate_factor(settings, 1.0)
