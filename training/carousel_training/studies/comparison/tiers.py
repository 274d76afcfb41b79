"""Which cells differ reliably, and the tiers that follow. Pure functions of losses.

Two cells are told apart when their difference exceeds its interval, which covers the effects of seeds and text, and the
noise floor, which also covers the effect of two searches of the same cell. Legend: as in `intervals.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from carousel_training.studies.comparison.intervals import Error, Interval, Values, combine, mean_error


@dataclass(frozen=True, slots=True)
class Contender:
    """Holds one cell's test loss for every seed, none of which diverged."""

    name: str
    nats: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean(self.nats)


def difference(one: Contender, other: Contender, text_error: Error, level: float) -> Interval:
    """Returns the interval of the means' difference, `one` minus `other`.

    Half-widths by Welch over both cells' seeds and by the text add in squares: joint degrees of freedom would let a
    well-known error narrow a badly known one.
    """
    gap = one.mean - other.mean
    by_seeds = combine(gap, [mean_error(one.nats), mean_error(other.nats)], level).half_width
    return Interval(gap, math.hypot(by_seeds, combine(gap, [text_error], level).half_width))


def text_error(means_RC: Values, one: int, other: int, num_blocks: int) -> Error:
    """Returns the effect of the text on the difference of two models, from their bootstrapped means."""
    return Error(float(np.var(means_RC[:, one] - means_RC[:, other], ddof=1)), max(num_blocks - 1.0, 1.0))


def is_told_apart(found: Interval, floor: float) -> bool:
    return abs(found.mean) > max(found.half_width, floor)


def pair_level(level: float, num_contenders: int) -> float:
    """Returns Bonferroni's level: each of all pairs must reach it so that all hold together at `level`."""
    num_pairs = max(num_contenders * (num_contenders - 1) // 2, 1)
    return 1.0 - (1.0 - level) / num_pairs


def tiers(ordered: Sequence[str], tells_apart: Callable[[str, str], bool]) -> list[list[str]]:
    """Groups from the best down: a tier is the best remaining cell and all cells that cannot be told apart from it."""
    left, found = list(ordered), list[list[str]]()
    while left:
        leader, *others = left
        left = [name for name in others if tells_apart(leader, name)]
        found.append([leader, *(name for name in others if name not in left)])
    return found
