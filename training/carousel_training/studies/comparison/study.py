"""Runs a comparison: fixes the unit of its budgets, then trains until the courses have no more jobs.

It keeps everything that is finished, so the same call continues after any kind of end.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carousel_training.errors import StudyInterrupted
from carousel_training.studies.comparison.courses import Course
from carousel_training.studies.comparison.entries import Entry
from carousel_training.studies.comparison.job_store import JobStore
from carousel_training.studies.comparison.jobs import Job, JobResult
from carousel_training.studies.comparison.plans import (
    Speeds,
    StudyPlan,
    estimate_seconds,
    unit_for_hours,
    unit_for_tokens,
)
from carousel_training.studies.comparison.timing import measure_speed
from carousel_training.studies.comparison.training import run_job
from carousel_training.studies.comparison.workers import Stopped, run_all
from carousel_training.studies.results import load_figures, make_directory, save_figures

TIMING_SECONDS = 2.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The length of a unit, the duration of the whole, and the speeds behind it, one for each entry."""

    unit_steps: int
    seconds: float
    speeds: tuple[Speeds, ...]


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, and the number of trainings that it runs side by side."""

    executor: Executor
    num_workers: int


class Study:
    """Runs a comparison in `directory`, with the text in `text_directory`."""

    def __init__(
        self, directory: Path, text_directory: Path, text_sha256: str, plan: StudyPlan, entries: Sequence[Entry]
    ) -> None:
        self.plan = plan
        self.entries = tuple(entries)
        self.store = JobStore(directory / "runs", text_sha256)
        self._plan_file = directory / "plan.json"
        self.directory = directory
        self.text_directory = text_directory
        self._text_sha256 = text_sha256
        self._known: dict[str, JobResult] = {}

    def __repr__(self) -> str:
        return f"Study({self.plan.name}, {len(self.entries)} entries, {len(self._known)} trainings known)"

    def estimate(self, workers: Workers) -> Estimate:
        """Measures once and keeps the result: trainings with different units could not be compared."""
        known = load_figures(self._plan_file)
        if known is not None and known.get("asked") == self._asked(workers):
            return Estimate(known["unit_steps"], known["seconds"], tuple(Speeds(**speed) for speed in known["speeds"]))
        speeds, tokens_per_step = self._measure(workers), self.tokens_per_step
        if self.plan.tokens is not None:
            unit_steps = unit_for_tokens(self.plan.tokens, self.plan, tokens_per_step)
        else:
            unit_steps = unit_for_hours(self.plan, speeds, workers.num_workers, tokens_per_step)
        seconds = estimate_seconds(self.plan, speeds, workers.num_workers, tokens_per_step, unit_steps)
        make_directory(self._plan_file.parent)
        figures = {"asked": self._asked(workers), "unit_steps": unit_steps, "seconds": seconds}
        save_figures(self._plan_file, {**figures, "speeds": [asdict(speed) for speed in speeds]})
        return Estimate(unit_steps, seconds, tuple(speeds))

    def run(self, workers: Workers, unit_steps: int, say: Say, is_interrupted: Callable[[], bool]) -> list[Course]:
        """Returns the finished courses. Raises StudyInterrupted, and TrainingError when a training's process died."""
        courses = [Course.of(entry, self.plan, unit_steps) for entry in self.entries]
        train = functools.partial(run_job, text_directory=self.text_directory)
        total = self.plan.num_jobs(len(courses))

        def done(job: Job, result: JobResult) -> None:
            self.store.save(job, result)
            self._known[job.name] = result
            say(f"[{len(self._known)}/{total}] {describe(job, result)}")

        def ready(busy: frozenset[Job]) -> list[Job]:
            return [job for course in courses for job in course.open_jobs(self.find)]

        for course in courses:
            course.open_jobs(self._recall)
        if self._known:
            say(f"{len(self._known)} of {total} trainings were done before")
        try:
            run_all(workers.executor, workers.num_workers, train, ready, done, is_interrupted)
        except Stopped as error:
            raise StudyInterrupted(
                f"stopped after {len(self._known)} of {total} trainings; the same command goes on with the others"
            ) from error
        return courses

    def find(self, job: Job) -> JobResult | None:
        """Finds a result among this call's trainings and the earlier ones."""
        return self._known.get(job.name)

    @property
    def results(self) -> list[JobResult]:
        """Returns all results that this call knows."""
        return list(self._known.values())

    def _recall(self, job: Job) -> JobResult | None:
        result = self.store.find(job)
        if result is not None:
            self._known[job.name] = result
        return result

    def _measure(self, workers: Workers) -> list[Speeds]:
        measure = functools.partial(
            measure_speed, reading=self.plan.reading, text_directory=self.text_directory, seconds=TIMING_SECONDS
        )
        return list(workers.executor.map(measure, [entry.settings for entry in self.entries]))

    @property
    def tokens_per_step(self) -> int:
        batch = self.entries[0].settings.batch
        return batch.num_lanes * batch.segment

    def _asked(self, workers: Workers) -> str:
        """Returns a digest of everything that the unit's measurement depends on."""
        asked: dict[str, Any] = {
            "plan": self.plan.as_json(),
            "entries": [[entry.name, entry.settings.as_json()] for entry in self.entries],
            "text": self._text_sha256,
            "num_workers": workers.num_workers,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def describe(job: Job, result: JobResult) -> str:
    """Describes a finished training in one line."""
    optimizer = job.settings.optimizer
    nats = f"{result.marks[-1].valid.nats:.4f} nats" if result.marks else "diverged"
    steps = f"{job.schedule.marks[-1]:,} steps"
    rate = f"rate {optimizer.learning_rate:g}"
    return f"{job.name}: {nats} after {steps}, {rate} ({result.wall_seconds:.1f} s)"
