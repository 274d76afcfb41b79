"""This module defines one training of a comparison, a job, and its result. Both are plain values that can be stored.

Legend: B lanes, N blocks of a text.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import carousel_training
from carousel_training.settings import Settings

COOLDOWN_SHARE = 0.2  # Hägele et al. 2024: as good as a cosine from about here on
PROTOCOL = 1  # increase it when the results of a job change for a reason outside the files below
DECIDING = ("cells/*.py", "*.py", "studies/comparison/training.py", "studies/comparison/gate_bias.py")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Gives the learning rate by step: a linear warm-up, then the peak rate, with a cooldown that ends at each of
    `marks`. After a mark the constant rate continues as if there were no cooldown, so one training gives a result per
    mark."""

    warmup: int
    marks: tuple[int, ...]

    def cooldown_start(self, mark: int) -> int:
        return mark - max(1, round(COOLDOWN_SHARE * mark))

    def factor(self, step: int, mark: int) -> float:
        """Returns the factor of the peak rate at `step`, counted from 0, before `mark`: 1 - sqrt in the cooldown."""
        start = self.cooldown_start(mark)
        rising = min((step + 1) / max(self.warmup, 1), 1.0)
        falling = 1.0 if step < start else 1.0 - math.sqrt((step - start + 0.5) / (mark - start))
        return min(rising, falling)

    @property
    def num_steps(self) -> int:
        """Counts all trained steps, with the discarded cooldowns."""
        last = self.marks[-1]
        return last + sum(mark - self.cooldown_start(mark) for mark in self.marks[:-1])


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """Says how held-out parts are read: the number of tokens, lanes that start as sessions do, blocks for a
    bootstrap."""

    num_lanes: int
    valid_tokens: int
    test_tokens: int
    block: int


@dataclass(frozen=True, slots=True)
class Job:
    """Holds everything that decides a training, except the text. `settings` has cell, width, rate and seed."""

    name: str
    settings: Settings
    gate_shift: float
    schedule: Schedule
    reading: ReadingPlan
    reads_test: bool

    def key(self, text_sha256: str) -> str:
        """Returns a digest of everything that the result depends on: settings, text, code and torch."""
        settings = self.settings.as_json()
        del settings["corpus"], settings["budget"], settings["evaluation"]  # the text's digest and the job replace them
        decided = {
            "settings": settings,
            "gate_shift": self.gate_shift,
            "schedule": asdict(self.schedule),
            "cooldown_share": COOLDOWN_SHARE,
            "reading": asdict(self.reading),
            "reads_test": self.reads_test,
            "text": text_sha256,
            "code": code_digest(),
            "torch": str(torch.__version__),
            "protocol": PROTOCOL,
        }
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reading:
    """Holds the result of reading a text: nats per token, in all and by lane, and the sum of each block."""

    nats: float
    lanes_B: tuple[float, ...]
    blocks_N: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MarkResult:
    """Holds a result at the end of a cooldown. `core_seconds` are those of a training that goes directly to this
    mark."""

    step: int
    tokens: int
    core_seconds: float
    valid: Reading
    test: Reading | None


@dataclass(frozen=True, slots=True)
class JobResult:
    """Holds a job's result. A diverged training has fewer `marks` than planned. `wall_seconds` counts everything."""

    marks: tuple[MarkResult, ...]
    wall_seconds: float

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "JobResult":
        """Reads plain values. Raises KeyError or TypeError for anything else."""
        return cls(tuple(_mark(mark) for mark in facts["marks"]), float(facts["wall_seconds"]))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def at(self, step: int) -> MarkResult | None:
        return next((mark for mark in self.marks if mark.step == step), None)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Returns a digest of the files that decide what a training computes, not of commands, pages and pictures."""
    root, total = Path(carousel_training.__path__[0]), hashlib.sha256()
    for path in sorted({path for pattern in DECIDING for path in root.glob(pattern)}):
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _mark(facts: Mapping[str, Any]) -> MarkResult:
    test = facts["test"]
    return MarkResult(
        facts["step"],
        facts["tokens"],
        facts["core_seconds"],
        _reading(facts["valid"]),
        None if test is None else _reading(test),
    )


def _reading(facts: Mapping[str, Any]) -> Reading:
    return Reading(facts["nats"], tuple(facts["lanes_B"]), tuple(facts["blocks_N"]))
