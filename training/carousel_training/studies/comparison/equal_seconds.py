"""Losses at equal numbers of seconds, from losses at equal numbers of tokens. Pure functions."""

import math
from collections.abc import Sequence
from statistics import median

Point = tuple[float, float]  # seconds, nats


def common_seconds(curves: Sequence[Sequence[Point]]) -> list[float]:
    """Returns the middle cell's seconds at each mark, where most cells have a figure."""
    return [median(curve[mark][0] for curve in curves) for mark in range(min(map(len, curves), default=0))]


def nats_at(curve: Sequence[Point], seconds: float) -> float | None:
    """Interpolates between two marks, linear in the logarithm of the seconds. Returns None outside of the measured
    range.
    """
    for (before, nats_before), (after, nats_after) in zip(curve, curve[1:], strict=False):
        if before <= seconds <= after:
            share = math.log(seconds / before) / math.log(after / before) if after > before else 1.0
            return nats_before + share * (nats_after - nats_before)
    return curve[0][1] if len(curve) == 1 and curve[0][0] == seconds else None
