"""The uncertainty of a mean: Student's t over seeds, a bootstrap over blocks of a text, and the two together.

Pure functions of numbers. Legend: C models, N blocks of a text, R draws of the bootstrap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean, variance

import numpy as np
import numpy.typing as npt

NUM_NODES = 96
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the distance of the truth from it on either side. `half_width` is infinite for a single value."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def farthest(self) -> float:
        """The largest distance from 0 within the interval."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True)
class Error:
    """Holds one source of error of a mean: its variance, and the degrees of freedom of that estimate."""

    variance: float
    freedom: float


def t_cumulative(value: float, freedom: float) -> float:
    """Returns the chance that Student's t with `freedom` degrees is at most `value`.

    With x = sqrt(freedom) tan a the density becomes a power of cos a on a finite range, which Gauss's rule integrates.
    """
    end = math.atan(abs(value) / math.sqrt(freedom))
    nodes, weights = _gauss()
    angles = 0.5 * end * (nodes + 1.0)
    scale = math.exp(math.lgamma(0.5 * (freedom + 1.0)) - math.lgamma(0.5 * freedom)) / math.sqrt(math.pi)
    half = scale * 0.5 * end * float(weights @ np.cos(angles) ** (freedom - 1.0))
    return 0.5 + math.copysign(min(half, 0.5), value)


@lru_cache(maxsize=1)
def _gauss() -> tuple[Values, Values]:
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    return nodes, weights


def t_quantile(probability: float, freedom: float) -> float:
    """Returns the value that Student's t stays below with `probability`, which lies between 0.5 and 1."""
    low, high = 0.0, 1.0
    while t_cumulative(high, freedom) < probability:
        low, high = high, 2.0 * high
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if t_cumulative(middle, freedom) < probability else (low, middle)
    return 0.5 * (low + high)


def mean_error(values: Sequence[float]) -> Error:
    """Returns the error of a mean of independent values, of unknown size for a single value."""
    if len(values) < 2:
        return Error(math.inf, 1.0)
    return Error(variance(values) / len(values), len(values) - 1.0)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Returns Student's interval of a mean."""
    return combine(mean(values), [mean_error(values)], level)


def combine(value: float, errors: Sequence[Error], level: float) -> Interval:
    """Returns an interval around `value` with added independent errors and Welch's and Satterthwaite's degrees of
    freedom.
    """
    total = math.fsum(error.variance for error in errors)
    if total == 0.0 or not math.isfinite(total):
        return Interval(value, total)
    freedom = total**2 / math.fsum(error.variance**2 / error.freedom for error in errors)
    return Interval(value, t_quantile(0.5 + 0.5 * level, freedom) * math.sqrt(total))


def bootstrap_means(sums_CN: Values, counts_N: Values, num_draws: int, seed: int) -> Values:
    """Returns means_RC of texts of blocks drawn with replacement, the same blocks for every model.

    `sums_CN` are the nats of each block, `counts_N` its tokens. Tokens of a text depend on their neighbours, blocks of
    hundreds of tokens hardly (Kunsch 1989).
    """
    num_blocks = len(counts_N)
    drawn_RN = np.random.default_rng(seed).multinomial(num_blocks, np.full(num_blocks, 1.0 / num_blocks), num_draws)
    means_RC: Values = (drawn_RN @ sums_CN.T) / (drawn_RN @ counts_N)[:, None]
    return means_RC
