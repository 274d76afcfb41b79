"""One entry's course through a comparison: its trials, their trainings, and which trainings can run now.

It only decides; it finds results by name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from carousel_training.cells.registry import CELLS
from carousel_training.settings import Settings
from carousel_training.studies.comparison.entries import Entry
from carousel_training.studies.comparison.jobs import Job, JobResult, Schedule
from carousel_training.studies.comparison.plans import StudyPlan
from carousel_training.studies.comparison.search import (
    Losses,
    Trial,
    chosen_trial,
    draw_trials,
    open_trials,
    rung_sizes,
)

SEARCH_SEEDS = 1000  # seeds of searches begin here, those of finals at 0
SEARCH_DRAWS = 11
DEFAULT_WARMUP = 0.1
Find = Callable[[Job], JobResult | None]


@dataclass(frozen=True, slots=True)
class Course:
    """Plans one entry under a plan with the unit `unit_steps`."""

    entry: Entry
    plan: StudyPlan
    unit_steps: int
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, entry: Entry, plan: StudyPlan, unit_steps: int) -> "Course":
        """Draws trials for the entry, or uses the settings as they are if there is nothing to choose."""
        trials = [_default(entry)]
        if plan.has_search:
            trials = draw_trials(plan.space, plan.num_trials, entry.name, SEARCH_DRAWS)
        return cls(entry, plan, unit_steps, tuple(trials))

    def search_job(self, rung: int, trial: int) -> Job:
        """Returns a whole training of a rung's length, with its own warm-up, constant rate and cooldown."""
        steps = self.plan.search_steps(self.unit_steps)[rung]
        seed = self.entry.first_seed + SEARCH_SEEDS + trial
        return self._job(f"rung-{rung}-trial-{trial:02d}", trial, (steps,), seed, reads_test=False)

    def final_job(self, trial: int, seed: int) -> Job:
        """Returns a training to all marks, with the test part read at each mark."""
        marks = self.plan.mark_steps(self.unit_steps)
        return self._job(f"seed-{seed}", trial, marks, self.entry.first_seed + seed, reads_test=True)

    def rungs(self, find: Find) -> list[Losses]:
        """Returns the known results of the search: validation nats of each trial by rung, None for a diverged trial."""
        if not self.plan.has_search:
            return []
        return [
            {
                trial: _nats(result)
                for trial in range(len(self.trials))
                if (result := find(self.search_job(rung, trial))) is not None
            }
            for rung in range(len(self.plan.rungs))
        ]

    def open_jobs(self, find: Find) -> list[Job]:
        """Returns all trainings that can run now: the search first, then the finals of its choice. Empty when done."""
        rungs = self.rungs(find)
        if self.plan.has_search:
            is_open = open_trials(rungs, rung_sizes(self.plan.num_trials, len(rungs)))
            if is_open:
                return [self.search_job(rung, trial) for rung, trial in is_open]
        finals = self.final_jobs(chosen_trial(rungs))
        return [job for job in finals if find(job) is None]

    def final_jobs(self, trial: int) -> list[Job]:
        return [self.final_job(trial, seed) for seed in range(self.plan.num_seeds)]

    def _job(self, name: str, trial: int, marks: tuple[int, ...], seed: int, *, reads_test: bool) -> Job:
        chosen = self.trials[trial]
        steps = (
            self.plan.search_steps(self.unit_steps) if self.plan.has_search else self.plan.mark_steps(self.unit_steps)
        )
        schedule = Schedule(max(1, round(chosen.warmup_share * steps[0])), marks)
        settings = _tuned(self.entry.settings, chosen, seed)
        full_name = f"{self.entry.name}/{name}"
        return Job(full_name, settings, chosen.gate_shift, schedule, self.plan.reading, reads_test)


def _default(entry: Entry) -> Trial:
    settings = entry.settings
    rate = settings.optimizer.learning_rate or CELLS[entry.cell].learning_rate
    return Trial(rate, DEFAULT_WARMUP, 0.0, settings.model.dropout, settings.optimizer.clip_norm)


def _nats(result: JobResult) -> float | None:
    return result.marks[-1].valid.nats if result.marks else None


def _tuned(settings: Settings, trial: Trial, seed: int) -> Settings:
    optimizer = settings.optimizer.model_copy(
        update={"learning_rate": trial.learning_rate, "clip_norm": trial.clip_norm}
    )
    model = settings.model.model_copy(update={"dropout": trial.dropout})
    return settings.model_copy(update={"optimizer": optimizer, "model": model, "seed": seed})
