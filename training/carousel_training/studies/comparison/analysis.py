"""Derives the conclusions of a comparison: intervals, tiers, equal tokens and seconds, the value of a search.

It is a pure function from plain values to plain values, so that a page can be rebuilt from a JSON. Legend: C models, N
blocks of the test part, R draws.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from carousel_training.studies.comparison.best_of_n import expected_best
from carousel_training.studies.comparison.equal_seconds import Point, common_seconds, nats_at
from carousel_training.studies.comparison.intervals import Interval, Values, bootstrap_means, mean_interval
from carousel_training.studies.comparison.tiers import (
    Contender,
    difference,
    is_told_apart,
    pair_level,
    text_error,
    tiers,
)

LEVEL = 0.95
NUM_DRAWS = 2000
BOOTSTRAP_SEED = 0
Figures = dict[str, Any]


def analyse(study: Mapping[str, Any]) -> Figures:
    """Analyses all cells, and the twin if there is one."""
    cells, twin = study["cells"], study["twin"]
    every = [*cells, twin] if twin else list(cells)
    guessing = math.log(study["text"]["vocabulary_size"])
    return {
        "level": LEVEL,
        **_compare(cells, twin, study["block_tokens"]),
        "equal_tokens": {cell["name"]: _at_marks(cell) for cell in every},
        "equal_seconds": _equal_seconds(every),
        "best_of": {cell["name"]: _best_of(cell, guessing) for cell in every if cell["search"]},
        "lanes": _lanes(every),
    }


def final_nats(cell: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Returns the test loss of every seed, or None if one of them diverged."""
    nats = [run["test_nats"] for run in cell["runs"]]
    return None if not nats or None in nats else tuple(nats)


def _compare(cells: Sequence[Figures], twin: Figures | None, counts: Sequence[int]) -> Figures:
    finished = sorted((cell for cell in cells if final_nats(cell)), key=lambda cell: fmean(final_nats(cell) or ()))
    judged = [*finished, twin] if twin is not None and final_nats(twin) else finished
    contenders = [Contender(cell["name"], final_nats(cell) or ()) for cell in judged]
    means_RC = _resampled(judged, counts)
    floor = _floor(contenders, means_RC, len(counts), cells, twin)
    pairs = _pairs(contenders[: len(finished)], means_RC, len(counts), floor["floor"] if floor else 0.0)
    apart = {frozenset((pair["better"], pair["worse"])) for pair in pairs if pair["is_told_apart"]}
    names = [cell["name"] for cell in finished]
    has_spread = all(len(contender.nats) > 1 for contender in contenders)
    return {
        "finals": {contender.name: _final(contender, means_RC[:, i]) for i, contender in enumerate(contenders)},
        "diverged": [cell["name"] for cell in cells if cell["name"] not in names],
        "noise_floor": floor,
        "pairs": pairs,
        "tiers": tiers(names, lambda one, other: frozenset((one, other)) in apart) if has_spread else [],
    }


def _resampled(judged: Sequence[Figures], counts: Sequence[int]) -> Values:
    if not judged:
        return np.empty((NUM_DRAWS, 0))
    sums_CN = np.array([cell["blocks"] for cell in judged], dtype=np.float64)
    return bootstrap_means(sums_CN, np.asarray(counts, dtype=np.float64), NUM_DRAWS, BOOTSTRAP_SEED)


def _final(contender: Contender, means_R: Values) -> Figures:
    low, high = np.quantile(means_R, [0.5 - 0.5 * LEVEL, 0.5 + 0.5 * LEVEL])
    return {**_interval(mean_interval(contender.nats, LEVEL)), "text_low": float(low), "text_high": float(high)}


def _pairs(contenders: Sequence[Contender], means_RC: Values, num_blocks: int, floor: float) -> list[Figures]:
    """Returns every pair, the better one first. The intervals hold for all pairs together."""
    level, found = pair_level(LEVEL, len(contenders)), list[Figures]()
    for worse in range(len(contenders)):
        for better in range(worse):
            error = text_error(means_RC, worse, better, num_blocks)
            gap = difference(contenders[worse], contenders[better], error, level)
            names = {"better": contenders[better].name, "worse": contenders[worse].name}
            found.append({**names, **_interval(gap), "is_told_apart": is_told_apart(gap, floor)})
    return found


def _floor(
    contenders: Sequence[Contender], means_RC: Values, num_blocks: int, cells: Sequence[Figures], twin: Figures | None
) -> Figures | None:
    """Compares the twin with its model: the largest difference within its interval is the effect of noise."""
    names = [contender.name for contender in contenders]
    if twin is None or twin["name"] not in names:
        return None
    model = next((cell["name"] for cell in cells if cell["cell"] == twin["cell"]), None)
    if model not in names:
        return None
    one, other = names.index(twin["name"]), names.index(model)
    gap = difference(contenders[one], contenders[other], text_error(means_RC, one, other, num_blocks), LEVEL)
    return {"twin": twin["name"], "of": model, **_interval(gap), "floor": gap.farthest}


def _at_marks(cell: Figures) -> list[Figures | None]:
    """Returns the test loss over the seeds at every mark, None if a seed diverged before it."""
    num_marks = max((len(run["marks"]) for run in cell["runs"]), default=0)
    return [_at_mark(cell["runs"], mark) for mark in range(num_marks)]


def _at_mark(runs: Sequence[Figures], mark: int) -> Figures | None:
    if any(len(run["marks"]) <= mark for run in runs):
        return None
    marks = [run["marks"][mark] for run in runs]
    return {"tokens": marks[0]["tokens"], **_interval(mean_interval([item["test_nats"] for item in marks], LEVEL))}


def _equal_seconds(cells: Sequence[Figures]) -> Figures:
    curves = {cell["name"]: _curve(cell) for cell in cells}
    longest = max((len(curve) for curve in curves.values()), default=0)
    seconds = common_seconds([curve for curve in curves.values() if len(curve) == longest])
    rows = {name: [nats_at(curve, second) for second in seconds] for name, curve in curves.items()}
    return {"seconds": seconds, "nats": rows, "curves": {name: [*map(list, curve)] for name, curve in curves.items()}}


def _curve(cell: Figures) -> list[Point]:
    """Returns the middle seed's seconds of one core, and the mean test loss, at each mark that all seeds reached."""
    runs = cell["runs"]
    num_marks = min((len(run["marks"]) for run in runs), default=0)
    return [
        (
            median(run["marks"][mark]["core_seconds"] for run in runs),
            fmean(run["marks"][mark]["test_nats"] for run in runs),
        )
        for mark in range(num_marks)
    ]


def _best_of(cell: Figures, guessing: float) -> list[float]:
    """Covers the first rung, in which all trials ran. A diverged trial counts as guessing evenly."""
    return expected_best([guessing if trial["nats"][0] is None else trial["nats"][0] for trial in cell["search"]])


def _lanes(cells: Sequence[Figures]) -> dict[str, Figures | None]:
    """Returns each cell's lanes, and the lane that is farthest above the usual loss in that lane of runs with such a
    mean.

    That lane is stuck; a hard stretch of text is hard for all cells.
    """
    runs = [run for cell in cells for run in cell["runs"] if run["test_lanes"]]
    hardness_B = [
        median(lanes)
        for lanes in zip(*([nats - run["test_nats"] for nats in run["test_lanes"]] for run in runs), strict=True)
    ]
    return {cell["name"]: _lanes_of(cell, hardness_B) for cell in cells}


def _lanes_of(cell: Figures, hardness_B: Sequence[float]) -> Figures | None:
    excess = [
        (nats - run["test_nats"] - hard, run["seed"], lane)
        for run in cell["runs"]
        for lane, (nats, hard) in enumerate(zip(run["test_lanes"], hardness_B, strict=False))
    ]
    if not excess:
        return None
    nats = [nats for run in cell["runs"] for nats in run["test_lanes"]]
    most, seed, lane = max(excess)
    lanes = {"best": min(nats), "median": median(nats), "worst": max(nats)}
    return {**lanes, "most_excess": most, "excess_seed": seed, "excess_lane": lane}


def _interval(found: Interval) -> Figures:
    return {"mean": found.mean, "half_width": found.half_width if math.isfinite(found.half_width) else None}
