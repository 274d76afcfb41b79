"""The figures of a finished comparison as plain values, inputs and results, for the JSON.

It concludes nothing; `analysis.py` does, from these values alone. Legend: B lanes, N blocks of the test part.
"""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from carousel_training.batches import WARM_UP
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.studies.comparison.courses import Course
from carousel_training.studies.comparison.gate_bias import has_gate
from carousel_training.studies.comparison.jobs import Job, JobResult, MarkResult, ReadingPlan
from carousel_training.studies.comparison.search import chosen_trial

Figures = dict[str, Any]


def block_tokens(reading: ReadingPlan, num_test_tokens: int) -> list[int]:
    """Returns counts_N, the number of tokens in each block of the test part, lane after lane."""
    length = min(reading.test_tokens // reading.num_lanes, (num_test_tokens - WARM_UP) // reading.num_lanes)
    lane = [min(reading.block, length - start) for start in range(0, length, reading.block)]
    return lane * reading.num_lanes


def course_figures(course: Course, find: Callable[[Job], JobResult | None], model: RecurrentLM) -> Figures:
    """Returns one entry: its width, its trials, the choice, and every run of the final."""
    rungs = course.rungs(find)
    chosen = chosen_trial(rungs)
    finals = [(seed, find(job)) for seed, job in enumerate(course.final_jobs(chosen))]
    runs = [_run(course, seed, result) for seed, result in finals if result is not None]
    return {
        "cell": course.entry.contestant,
        "name": course.entry.name,
        "hidden_size": course.entry.settings.model.hidden_size,
        "num_parameters": model.num_parameters,
        "state_bytes": model.state_layout.num_bytes,
        "has_gate": has_gate(course.entry.cell, model.stack),
        "trial": course.trials[chosen].as_json(),
        "search": [
            {"trial": trial.as_json(), "nats": [rung[number] for rung in rungs if number in rung]}
            for number, trial in enumerate(course.trials)
            if rungs
        ],
        "runs": runs,
        "blocks": _mean_blocks(course, [result for _, result in finals if result is not None]),
    }


def machine_figures(num_workers: int) -> Figures:
    return {
        "processor": _processor(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "trainings_side_by_side": num_workers,
    }


def build_model(course: Course, vocabulary_size: int) -> RecurrentLM:
    """Builds the model at its start: sizes, states and speeds do not depend on its weights."""
    return RecurrentLM(ModelConfig.from_settings(course.entry.settings.model, vocabulary_size)).eval()


def _run(course: Course, seed: int, result: JobResult) -> Figures:
    """`nats` is the validation loss at the last mark, None if the loss stopped being a number before it."""
    steps = course.plan.mark_steps(course.unit_steps)
    last = result.at(steps[-1])
    return {
        "seed": course.entry.first_seed + seed,
        "nats": None if last is None else last.valid.nats,
        "test_nats": None if last is None or last.test is None else last.test.nats,
        "tokens": 0 if last is None else last.tokens,
        "core_seconds": None if last is None else last.core_seconds,
        "wall_seconds": result.wall_seconds,
        "marks": [_mark(mark) for mark in result.marks],
        "test_lanes": [] if last is None or last.test is None else list(last.test.lanes_B),
    }


def _mark(mark: MarkResult) -> Figures:
    return {
        "tokens": mark.tokens,
        "core_seconds": mark.core_seconds,
        "nats": mark.valid.nats,
        "test_nats": None if mark.test is None else mark.test.nats,
    }


def _mean_blocks(course: Course, results: Sequence[JobResult]) -> list[float]:
    """Returns sums_N at the last mark, the mean over the seeds; empty if one diverged."""
    step = course.plan.mark_steps(course.unit_steps)[-1]
    lasts = [result.at(step) for result in results]
    tests = [last.test.blocks_N for last in lasts if last is not None and last.test is not None]
    if not tests or len(tests) < len(results):
        return []
    return [float(f"{fmean(sums):.6g}") for sums in zip(*tests, strict=True)]


def _processor() -> str:
    """Returns the processor's name if the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
