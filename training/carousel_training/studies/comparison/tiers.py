"""This module decides which cells can be told apart, and sorts them into tiers. Its functions are pure.

Two cells are told apart when their difference is larger than its interval, which covers the effects of seeds and text,
and larger than the noise floor, which also covers two searches of the same cell. Legend: as in `intervals.py`.
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
    """Returns the difference of the means, `one` minus `other`. The half-widths, by Welch over the seeds and by the
    text, add in squares: common degrees of freedom would let a well-known error narrow a poorly known one."""
    gap = one.mean - other.mean
    by_seeds = combine(gap, [mean_error(one.nats), mean_error(other.nats)], level).half_width
    return Interval(gap, math.hypot(by_seeds, combine(gap, [text_error], level).half_width))


def text_error(means_RC: Values, one: int, other: int, num_blocks: int) -> Error:
    """Returns the error that the choice of the text adds to a difference, from bootstrapped means."""
    return Error(float(np.var(means_RC[:, one] - means_RC[:, other], ddof=1)), max(num_blocks - 1.0, 1.0))


def is_told_apart(found: Interval, floor: float) -> bool:
    return abs(found.mean) > max(found.half_width, floor)


def pair_level(level: float, num_contenders: int) -> float:
    """Returns Bonferroni's level for each pair, at which all pairs hold together at `level`."""
    num_pairs = max(num_contenders * (num_contenders - 1) // 2, 1)
    return 1.0 - (1.0 - level) / num_pairs


def tiers(ordered: Sequence[str], tells_apart: Callable[[str, str], bool]) -> list[list[str]]:
    """Builds tiers from the best down: the best remaining cell, and all that cannot be told apart from it."""
    left, found = list(ordered), list[list[str]]()
    while left:
        leader, *others = left
        left = [name for name in others if tells_apart(leader, name)]
        found.append([leader, *(name for name in others if name not in left)])
    return found
