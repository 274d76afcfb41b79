"""One training of a comparison: its inputs and its results. Both are plain values that cross processes and files.

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

COOLDOWN_SHARE = 0.2  # from about here on as good as a cosine (Hägele et al. 2024)
PROTOCOL = 1  # increase it when a job's figures change for a reason outside of the files below
DECIDING = ("cells/*.py", "*.py", "studies/comparison/training.py", "studies/comparison/gate_bias.py")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule in steps: a linear warm-up, then the peak rate, and a cooldown that ends at each of `marks`.

    After a mark the constant rate continues as if there had been no cooldown. So one training gives a whole one for
    each mark.
    """

    warmup: int
    marks: tuple[int, ...]

    def cooldown_start(self, mark: int) -> int:
        return mark - max(1, round(COOLDOWN_SHARE * mark))

    def factor(self, step: int, mark: int) -> float:
        """Returns the share of the peak rate at `step`, from 0, on the way to `mark`: 1 - sqrt in the cooldown."""
        start = self.cooldown_start(mark)
        rising = min((step + 1) / max(self.warmup, 1), 1.0)
        falling = 1.0 if step < start else 1.0 - math.sqrt((step - start + 0.5) / (mark - start))
        return min(rising, falling)

    @property
    def num_steps(self) -> int:
        """The number of all trained steps, including the discarded cooldowns."""
        last = self.marks[-1]
        return last + sum(mark - self.cooldown_start(mark) for mark in self.marks[:-1])


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """How to read held-out parts: tokens of each, in lanes that start as sessions do; blocks for a bootstrap."""

    num_lanes: int
    valid_tokens: int
    test_tokens: int
    block: int


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that decides one training, besides the text. `settings` has the cell, its width, its rate and the
    seed.
    """

    name: str
    settings: Settings
    gate_shift: float
    schedule: Schedule
    reading: ReadingPlan
    reads_test: bool

    def key(self, text_sha256: str) -> str:
        """Returns a digest of everything that the result depends on: settings, text, code and torch."""
        settings = self.settings.as_json()
        del settings["corpus"], settings["budget"], settings["evaluation"]  # the digest and this job say them
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
    """The result on a text: mean nats per token, of every lane, and the sum over every block of all lanes."""

    nats: float
    lanes_B: tuple[float, ...]
    blocks_N: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MarkResult:
    """The result after a cooldown. `core_seconds` are those of a training straight to this mark, on one core."""

    step: int
    tokens: int
    core_seconds: float
    valid: Reading
    test: Reading | None


@dataclass(frozen=True, slots=True)
class JobResult:
    """There are fewer `marks` than planned if the loss stopped being a number. `wall_seconds` counts everything."""

    marks: tuple[MarkResult, ...]
    wall_seconds: float

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "JobResult":
        """Raises KeyError or TypeError for other values."""
        return cls(tuple(_mark(mark) for mark in facts["marks"]), float(facts["wall_seconds"]))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def at(self, step: int) -> MarkResult | None:
        return next((mark for mark in self.marks if mark.step == step), None)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Returns the digest of the files that decide what a training computes, without commands, pages and plots."""
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
