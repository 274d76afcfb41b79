"""Tables format and summarise figures."""

import math

import pytest

from carousel_training.studies.tables import show, spread


def test_the_spread_is_the_sample_deviation() -> None:
    """Mean and deviation over runs, with n - 1 below."""
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)


@pytest.mark.parametrize("values", [[], [1.0, None], [1.0, math.nan]])
def test_a_run_without_a_figure_leaves_no_mean(values: list[float | None]) -> None:
    """A run without a figure leaves no mean, since the mean of the other runs would be too good."""
    assert spread(values) == (None, None)


def test_one_run_has_no_spread() -> None:
    """A single run has a mean and no deviation."""
    assert spread([4.0]) == (4.0, None)


def test_a_missing_figure_is_a_dash() -> None:
    """None and NaN look alike, numbers take their form."""
    assert [show(value, ".1f") for value in (None, math.nan, 2.25)] == ["-", "-", "2.2"]
