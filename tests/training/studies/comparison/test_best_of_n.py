"""The expected best of n trials is the mean over all possible draws."""

from itertools import product
from statistics import fmean

import pytest

from carousel_training.studies.comparison.best_of_n import expected_best


def test_it_is_the_mean_over_all_draws() -> None:
    """The result is the mean of the lowest loss over every sequence of n draws with replacement."""
    losses = [2.5, 1.0, 4.0, 1.5]
    for n, expected in enumerate(expected_best(losses), start=1):
        assert expected == pytest.approx(fmean(min(drawn) for drawn in product(losses, repeat=n)))


def test_known_values() -> None:
    """One trial gives the mean; two give the better value three times in four."""
    assert expected_best([3.0, 1.0]) == pytest.approx([2.0, 1.5])
    assert expected_best([2.0]) == [2.0]
