"""Intervals have the widths that tables and theory give."""

import math

import numpy as np
import pytest

from carousel_training.studies.comparison.intervals import (
    Error,
    Interval,
    bootstrap_means,
    combine,
    mean_error,
    mean_interval,
    t_cumulative,
    t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 4, 2.7764),
        (0.975, 9, 2.2622),
        (0.95, 4, 2.1318),
        (0.995, 4, 4.6041),
        (0.9995, 4, 8.6103),
        (0.975, 1e6, 1.95996),
        (0.5, 3, 0.0),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: float, value: float) -> None:
    """The quantiles are those of Student's t, and of the normal distribution in the limit."""
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=2e-4)


def test_degrees_of_freedom_need_not_be_whole() -> None:
    """The quantile for 4.5 degrees is between those for 4 and 5."""
    assert t_quantile(0.975, 5) < t_quantile(0.975, 4.5) < t_quantile(0.975, 4)


def test_the_chance_is_even_around_zero() -> None:
    """The probability is 0.5 at zero, and one degree is the Cauchy distribution."""
    assert t_cumulative(-1.3, 4) == pytest.approx(1.0 - t_cumulative(1.3, 4))
    assert t_cumulative(2.0, 1) == pytest.approx(0.5 + math.atan(2.0) / math.pi)


def test_an_interval_of_a_mean() -> None:
    """Mean 3, standard deviation sqrt(2.5), five values: 2.7764 x sqrt(0.5)."""
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half_width == pytest.approx(1.9632, abs=1e-4)


def test_one_value_says_nothing_of_its_error() -> None:
    """Its interval has no end; equal values have none at all."""
    assert mean_interval([2.0]).half_width == math.inf
    assert mean_interval([2.0, 2.0]) == Interval(2.0, 0.0)


def test_errors_add_as_welch_says() -> None:
    """Two samples of variances 4 / 4 and 9 / 9: t of (1 + 1)^2 / (1/3 + 1/8) = 8.73 degrees, times sqrt(2)."""
    found = combine(0.5, [Error(1.0, 3.0), Error(1.0, 8.0)], 0.95)
    assert found.half_width == pytest.approx(t_quantile(0.975, 4 / (1 / 3 + 1 / 8)) * math.sqrt(2.0))
    assert combine(0.5, [Error(1.0, 3.0), Error(0.0, 8.0)], 0.95).half_width == pytest.approx(3.1824, abs=1e-4)
    assert combine(0.5, [Error(1.0, 3.0), mean_error([1.0])], 0.95).half_width == math.inf


def test_the_farthest_end_counts_from_zero() -> None:
    """On whichever side it lies."""
    assert Interval(-0.3, 0.1).farthest == pytest.approx(0.4)
    assert Interval(0.1, 0.3).farthest == pytest.approx(0.4)


def test_the_bootstrap_spreads_as_means_of_blocks_do() -> None:
    """Of 100 blocks of one token each the means have the variance of a mean of 100, and two models move together."""
    sums_N = np.random.default_rng(1).normal(2.0, 1.0, 100)
    means_RC = bootstrap_means(np.stack([sums_N, sums_N + 1.0]), np.ones(100), 4000, 0)
    assert means_RC.shape == (4000, 2)
    assert means_RC[:, 0].mean() == pytest.approx(sums_N.mean(), abs=0.01)
    assert means_RC[:, 0].std() == pytest.approx(sums_N.std() / 10.0, rel=0.05)
    assert np.ptp(means_RC[:, 1] - means_RC[:, 0]) == pytest.approx(0.0, abs=1e-9)


def test_longer_blocks_weigh_more() -> None:
    """A mean is per token: with the sums of 1 and 9 tokens at 1 nat each, every draw is 1."""
    means_RC = bootstrap_means(np.array([[1.0, 9.0]]), np.array([1.0, 9.0]), 50, 0)
    assert means_RC == pytest.approx(1.0)
