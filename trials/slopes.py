"""Fits lines through samples, with bounds on their slopes. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

_NUM_BLOCKS = 30


@dataclass(frozen=True, slots=True)
class Slope:
    """The growth of y per x, and its uncertainty."""

    value: float
    standard_error: float
    num_points: int

    def upper(self, confidence: float) -> float:
        """The slope is below this value with this confidence."""
        return self.value + _student_quantile(confidence, self.num_points - 2) * self.standard_error

    def lower(self, confidence: float) -> float:
        """The slope is above this value with this confidence."""
        return self.value - _student_quantile(confidence, self.num_points - 2) * self.standard_error


def after_first_quarter(xs: Sequence[float], ys: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Leaves out the time in which caches and pools fill."""
    return xs[len(xs) // 4 :], ys[len(ys) // 4 :]


def fit_slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Least squares over means of blocks: neighbouring samples are similar, so using each would claim too much
    certainty. Needs three samples; raises ValueError for fewer, and when x is constant."""
    xs, ys = _block_means(xs), _block_means(ys)
    if len(xs) < 3 or min(xs) == max(xs):
        raise ValueError("too few samples for a slope")
    x_mean, y_mean = fmean(xs), fmean(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    value = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    left = sum((y - y_mean - value * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    return Slope(value, math.sqrt(left / (len(xs) - 2) / spread), len(xs))


def _block_means(values: Sequence[float]) -> list[float]:
    size = max(1, len(values) // _NUM_BLOCKS)
    return [fmean(values[start : start + size]) for start in range(0, len(values) - size + 1, size)]


def _student_quantile(confidence: float, degrees: int) -> float:
    """A quantile of Student's t, by its expansion about the normal one: accurate to 0.1 from five degrees of freedom
    on."""
    z = NormalDist().inv_cdf(confidence)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
