"""What a comparison does with each cell, and the cost. Plans are values; decisions are pure functions.

Budgets are in units. A unit is the number of tokens of the first mark, the same for every cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from carousel_training.studies.comparison.jobs import ReadingPlan, Schedule
from carousel_training.studies.comparison.search import Space, rung_sizes

SETTLING = 1.08  # the last trainings leave cores idle, and the pictures take time


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """`rungs` are the search's budgets, `marks` the final's, in units.

    A plan has either `hours` of wall time, from which the unit follows, or `tokens` at the last mark.
    """

    name: str
    num_trials: int
    rungs: tuple[float, ...]
    marks: tuple[int, ...]
    num_seeds: int
    has_twin: bool
    hours: float | None
    tokens: int | None
    reading: ReadingPlan = ReadingPlan(num_lanes=32, valid_tokens=24_576, test_tokens=65_536, block=512)
    space: Space = field(default_factory=Space)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def with_options(self, tokens: int | None, seeds: int | None, trials: int | None) -> "StudyPlan":
        """Returns the plan with the command line's values in place of its own."""
        plan = self if tokens is None else replace(self, hours=None, tokens=tokens)
        plan = plan if seeds is None else replace(plan, num_seeds=seeds)
        return plan if trials is None else replace(plan, num_trials=trials)

    @property
    def has_search(self) -> bool:
        return self.num_trials > 1

    def search_steps(self, unit_steps: int) -> list[int]:
        return [max(2, round(units * unit_steps)) for units in self.rungs]

    def mark_steps(self, unit_steps: int) -> tuple[int, ...]:
        return tuple(mark * unit_steps for mark in self.marks)

    def num_jobs(self, num_entries: int) -> int:
        """Returns the number of all trainings of a study."""
        search = sum(rung_sizes(self.num_trials, len(self.rungs))) if self.has_search else 0
        return num_entries * (search + self.num_seeds)


@dataclass(frozen=True, slots=True)
class Speeds:
    """The speeds of one cell on one thread, beside the other trainings.

    These are tokens per second of a core, and the core's seconds before training begins. `core_share` is the share of a
    core that the machine's other work leaves.
    """

    training: float
    reading: float
    setup: float
    core_share: float


DEFAULT_PLAN = StudyPlan(
    "short", num_trials=3, rungs=(2.0,), marks=(8,), num_seeds=2, has_twin=False, hours=None, tokens=300_000
)
PLANS: Mapping[str, StudyPlan] = {
    "hour": StudyPlan("hour", 16, (0.5, 1.0, 2.0), (1, 2, 4, 8), 5, has_twin=True, hours=1.0, tokens=None),
    "night": StudyPlan(
        "night",
        32,
        (0.5, 1.0, 2.0, 4.0),
        (1, 2, 4, 8),
        5,
        has_twin=True,
        hours=10.0,
        tokens=None,
        reading=ReadingPlan(num_lanes=32, valid_tokens=98_304, test_tokens=262_144, block=512),
    ),
}


def unit_for_tokens(tokens: int, plan: StudyPlan, tokens_per_step: int) -> int:
    """Returns the steps of a unit that end at the wanted number of tokens."""
    return max(1, round(tokens / (plan.marks[-1] * tokens_per_step)))


def unit_for_hours(plan: StudyPlan, speeds: Sequence[Speeds], num_workers: int, tokens_per_step: int) -> int:
    """Returns the longest unit whose estimate stays within the plan's hours, or 1 if even that takes longer."""
    wanted = 3600.0 * (plan.hours or 0.0)
    low, high = 1, 2
    while estimate_seconds(plan, speeds, num_workers, tokens_per_step, high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = estimate_seconds(plan, speeds, num_workers, tokens_per_step, middle) < wanted
        low, high = (middle, high) if fits else (low, middle)
    return low


def estimate_seconds(
    plan: StudyPlan, speeds: Sequence[Speeds], num_workers: int, tokens_per_step: int, unit_steps: int
) -> float:
    """Estimates the wall time of a study with its cores to itself. `speeds` has one item for each entry."""
    work = sum(_entry_seconds(plan, speed, tokens_per_step, unit_steps) for speed in speeds)
    return SETTLING * work / max(min(num_workers, plan.num_jobs(len(speeds))), 1)


def _entry_seconds(plan: StudyPlan, speed: Speeds, tokens_per_step: int, unit_steps: int) -> float:
    num_jobs, num_steps, num_read = 0, 0, 0
    if plan.has_search:
        sizes = rung_sizes(plan.num_trials, len(plan.rungs))
        num_jobs = sum(sizes)
        num_steps = sum(size * steps for size, steps in zip(sizes, plan.search_steps(unit_steps), strict=True))
        num_read = num_jobs * plan.reading.valid_tokens
    num_jobs += plan.num_seeds
    num_steps += plan.num_seeds * Schedule(1, plan.mark_steps(unit_steps)).num_steps
    num_read += plan.num_seeds * len(plan.marks) * (plan.reading.valid_tokens + plan.reading.test_tokens)
    return num_jobs * speed.setup + num_steps * tokens_per_step / speed.training + num_read / speed.reading
