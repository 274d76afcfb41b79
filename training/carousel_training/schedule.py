"""This module computes the learning rate as a fraction of its peak. It is a pure function of the progress of a run."""

import math

from carousel_training.settings import OptimizerSettings

ONE_CYCLE_START = 0.04  # where the one-cycle policy begins, as a fraction of the peak (Smith 2018)


def rate_factor(settings: OptimizerSettings, progress: float) -> float:
    """Returns a factor between 0 and 1. `progress` is the finished share of the run, clamped to [0, 1].

    one-cycle: half a cosine up from ONE_CYCLE_START over the warm-up, half a cosine down to `final_fraction`.
    cosine: a straight warm-up, then half a cosine down. constant: a straight warm-up, then 1.
    """
    done = min(max(progress, 0.0), 1.0)
    warmup = settings.warmup_fraction
    if done < warmup:
        if settings.schedule == "one-cycle":
            return _between(ONE_CYCLE_START, 1.0, done / warmup)
        return max(done / warmup, 1e-3)  # the very first step would otherwise be lost
    if settings.schedule == "constant":
        return 1.0
    return _between(1.0, settings.final_fraction, (done - warmup) / (1.0 - warmup))


def _between(start: float, end: float, share: float) -> float:
    """Follows half a cosine wave from start to end."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))
