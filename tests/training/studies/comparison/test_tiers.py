"""Cells are told apart beyond interval and noise floor, which gives the tiers."""

import numpy as np
import pytest

from carousel_training.studies.comparison.intervals import Error, Interval, mean_interval
from carousel_training.studies.comparison.tiers import (
    Contender,
    difference,
    is_told_apart,
    pair_level,
    text_error,
    tiers,
)

NO_ERROR = Error(0.0, 1.0)


def test_a_difference_has_the_errors_of_both_and_of_the_text() -> None:
    """With one side exact and no text it is Student's interval of the other; the text makes it wider."""
    one, exact = Contender("a", (1.0, 2.0, 3.0)), Contender("b", (1.5, 1.5, 1.5))
    plain = difference(one, exact, NO_ERROR, 0.95)
    assert plain.mean == pytest.approx(0.5)
    assert plain.half_width == pytest.approx(mean_interval(one.nats).half_width)
    assert difference(one, exact, Error(0.01, 50.0), 0.95).half_width > plain.half_width


def test_what_the_text_does_is_the_spread_of_differences() -> None:
    """The text adds no error to the difference of two models that move together."""
    means_RC = np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0], [5.0, 6.0, 0.0]])
    assert text_error(means_RC, 0, 1, 10) == Error(0.0, 9.0)
    assert text_error(means_RC, 0, 2, 10) == Error(4.0, 9.0)


def test_told_apart_is_beyond_both_bounds() -> None:
    """A difference must exceed both the interval and the floor."""
    assert is_told_apart(Interval(-0.5, 0.2), 0.1)
    assert not is_told_apart(Interval(-0.5, 0.6), 0.1)
    assert not is_told_apart(Interval(-0.5, 0.2), 0.5)


def test_more_pairs_ask_for_more() -> None:
    """Five cells make ten pairs."""
    assert pair_level(0.95, 5) == pytest.approx(0.995)
    assert pair_level(0.95, 1) == 0.95


def test_a_tier_is_measured_against_its_best() -> None:
    """b and c are not told apart, but c is told apart from a, so it is not in its tier. d is behind all."""
    apart = {("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")}
    assert tiers(["a", "b", "c", "d"], lambda one, other: (one, other) in apart) == [["a", "b"], ["c"], ["d"]]
    assert tiers(["a", "b"], lambda one, other: False) == [["a", "b"]]
    assert tiers([], lambda one, other: True) == []


def test_one_that_is_alike_joins_across_one_that_is_not() -> None:
    """A noisy cell behind a sharp one may still be in the first tier."""
    assert tiers(["a", "b", "c"], lambda one, other: (one, other) == ("a", "b")) == [["a", "c"], ["b"]]
