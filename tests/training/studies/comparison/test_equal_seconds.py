"""Losses at equal seconds are interpolated between measurements, and never extrapolated."""

import pytest

from carousel_training.studies.comparison.equal_seconds import common_seconds, nats_at

CURVE = [(1.0, 3.0), (4.0, 2.0), (16.0, 1.0)]


def test_between_marks_it_is_straight_in_the_logarithm() -> None:
    """Twice the seconds are halfway to four times the seconds."""
    assert nats_at(CURVE, 2.0) == pytest.approx(2.5)
    assert nats_at(CURVE, 8.0) == pytest.approx(1.5)
    assert [nats_at(CURVE, seconds) for seconds, _ in CURVE] == pytest.approx([3.0, 2.0, 1.0])


def test_beyond_the_marks_nothing_is_known() -> None:
    """There is no loss before the first or after the last mark. A single mark has a loss at its own second."""
    assert nats_at(CURVE, 0.5) is None
    assert nats_at(CURVE, 17.0) is None
    assert nats_at([], 1.0) is None
    assert nats_at([(2.0, 1.5)], 2.0) == 1.5
    assert nats_at([(2.0, 1.5)], 3.0) is None


def test_the_middle_cell_s_seconds_are_common() -> None:
    """The common seconds are the median at each mark. There are none without cells."""
    assert common_seconds([[(1.0, 0.0), (2.0, 0.0)], [(3.0, 0.0), (5.0, 0.0)], [(9.0, 0.0), (20.0, 0.0)]]) == [3.0, 5.0]
    assert common_seconds([]) == []
