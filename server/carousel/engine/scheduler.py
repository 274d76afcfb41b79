"""Who runs: turns wait in a queue, hold a lane while they run, and leave. Decisions only: no I/O, no arrays, no clock.

A step is `plan` -> (the runner runs it) -> `commit`. Plan says which tokens each lane consumes and what is asked of the
model afterwards; commit takes what came back, moves every job on and returns the events to deliver. All state changes
happen in these calls and in `submit` and `cancel`, on one thread, so no other moment needs thinking about.
"""

import collections
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from carousel.errors import CarouselError, Overloaded, ShuttingDown
from carousel.turns import (
    Candidate,
    Ended,
    Event,
    FinishReason,
    Generate,
    Generated,
    Predict,
    Predicted,
    Score,
    Scored,
    Snapshot,
    Turn,
)


class Ask(enum.Enum):
    """What the model is asked after a lane has consumed its tokens."""

    NOTHING = enum.auto()
    CHOICE = enum.auto()  # the next token of a Generate
    CANDIDATES = enum.auto()  # the answer to a Predict
    SCORES = enum.auto()  # ratings of the tokens consumed in this step


class Job:
    """A turn on its way. The scheduler alone changes it."""

    def __init__(self, turn: Turn, penalty_window: int) -> None:
        self.turn = turn
        self.lane: int | None = None
        self.is_cancelled = False
        self.num_fed = 0  # of turn.ids
        self.num_generated = 0
        self.unfed_id: int | None = None  # chosen, not yet consumed
        self.position = turn.start.position
        self.recent_ids = collections.deque(turn.start.recent_ids, maxlen=penalty_window)
        self.finish: FinishReason | None = None  # set when only consuming is left

    def __repr__(self) -> str:
        fed = f"{self.num_fed}/{len(self.turn.ids)} fed"
        return f"Job(lane {self.lane}, {fed}, {self.num_generated} generated)"


@dataclass(frozen=True, slots=True)
class Work:
    """One lane's part of a step: consume `ids` (none: keep the hidden vector it has), then answer `ask`."""

    lane: int
    ids: tuple[int, ...]
    ask: Ask
    is_last: bool  # the lane's state is wanted back
    job: Job


@dataclass(frozen=True, slots=True)
class Step:
    """What one run of the model does. `admitted` lanes take their snapshots first."""

    admitted: tuple[tuple[int, Snapshot], ...]
    works: tuple[Work, ...]

    @property
    def num_lanes(self) -> int:
        return len(self.works)

    @property
    def num_tokens(self) -> int:
        return sum(len(work.ids) for work in self.works)


@dataclass(slots=True)
class Outcome:
    """What the runner found for one work; filled by the runner, `snapshot` for the last work of a job."""

    error: CarouselError | None = None
    token_id: int = -1
    log_probability: float | None = None
    candidates: tuple[Candidate, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much runs at once. `max_prompt_tokens_per_step` counts what prompts add to a step beyond a token a lane."""

    max_lanes: int = 64
    max_queued_turns: int = 256
    max_chunk_tokens: int = 64
    max_prompt_tokens_per_step: int = 256
    penalty_window: int = 64


Delivery = tuple[Job, Event | CarouselError]


@dataclass
class Scheduler:
    """A queue of jobs, `max_lanes` lanes, and the association between them."""

    bounds: Bounds
    is_closed: bool = False  # set by close(): refuses new turns
    _queue: collections.deque[Job] = field(default_factory=collections.deque)
    _lanes: dict[int, Job] = field(default_factory=dict)  # in order of admission
    _free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._free = list(range(self.bounds.max_lanes - 1, -1, -1))

    def __repr__(self) -> str:
        return f"Scheduler({self.num_busy} of {self.bounds.max_lanes} lanes busy, {self.num_queued} queued)"

    @property
    def num_queued(self) -> int:
        return len(self._queue)

    @property
    def num_busy(self) -> int:
        return len(self._lanes)

    def check_open(self) -> None:
        """Raise what `submit` would raise now: ShuttingDown, or Overloaded when the queue is full."""
        if self.is_closed:
            raise ShuttingDown("the server is shutting down")
        if len(self._queue) >= self.bounds.max_queued_turns:
            raise Overloaded(
                f"{len(self._queue)} turns are waiting already", limit="max_queued_turns", retry_seconds=1.0
            )

    def submit(self, turn: Turn) -> Job:
        """Queue a turn. Every accepted job ends in exactly one delivery of Ended or an error, unless cancelled."""
        self.check_open()
        job = Job(turn, self.bounds.penalty_window)
        self._queue.append(job)
        return job

    def cancel(self, job: Job) -> None:
        """Forget the job; its lane is free at the latest when the step that runs now commits. Idempotent."""
        job.is_cancelled = True
        if job.lane is None and job in self._queue:
            self._queue.remove(job)

    def close(self) -> None:
        self.is_closed = True

    def abandon(self, error: CarouselError) -> list[Delivery]:
        """End every job with `error`. No step may be running."""
        jobs = [*self._queue, *self._lanes.values()]
        self._queue.clear()
        for job in list(self._lanes.values()):
            self._retire(job)
        return [(job, error) for job in jobs if not job.is_cancelled]

    def plan(self) -> Step | None:
        """Admit what fits and divide the step among the lanes. None when nothing is to be done."""
        for job in [job for job in self._lanes.values() if job.is_cancelled]:
            self._retire(job)
        admitted = tuple(self._admit_waiting())
        budget = self.bounds.max_prompt_tokens_per_step
        works = []
        for job in self._lanes.values():
            work = self._plan_job(job, budget)
            if len(work.ids) > 1:
                budget -= len(work.ids)
            works.append(work)
        return Step(admitted, tuple(works)) if works else None

    def commit(self, step: Step, outcomes: Sequence[Outcome]) -> list[Delivery]:
        """Move every job of the step on; outcomes[i] belongs to step.works[i]."""
        deliveries: list[Delivery] = []
        for work, outcome in zip(step.works, outcomes, strict=True):
            job = work.job
            if job.is_cancelled:
                self._retire(job)
            elif outcome.error is not None:
                self._retire(job)
                deliveries.append((job, outcome.error))
            else:
                deliveries.extend((job, event) for event in self._advance(work, outcome))
        return deliveries

    def _admit_waiting(self) -> list[tuple[int, Snapshot]]:
        admitted = []
        while self._queue and self._free:
            job = self._queue.popleft()
            job.lane = self._free.pop()
            self._lanes[job.lane] = job
            admitted.append((job.lane, job.turn.start))
        return admitted

    def _retire(self, job: Job) -> None:
        assert job.lane is not None
        del self._lanes[job.lane]
        self._free.append(job.lane)
        job.lane = None

    def _plan_job(self, job: Job, budget: int) -> Work:
        """The last choice; or the next chunk of the input, at least one token and what the budget leaves."""
        assert job.lane is not None
        if job.unfed_id is not None:
            is_last = job.finish is not None
            return Work(job.lane, (job.unfed_id,), Ask.NOTHING if is_last else Ask.CHOICE, is_last, job)
        left = len(job.turn.ids) - job.num_fed
        size = min(left, self.bounds.max_chunk_tokens, max(budget, 1))
        ids = job.turn.ids[job.num_fed : job.num_fed + size]
        return Work(job.lane, ids, *_ask_after(job.turn, is_fed=size == left), job)

    def _advance(self, work: Work, outcome: Outcome) -> list[Event]:
        """Record what a lane consumed and was told; retire it when that was all."""
        job = work.job
        job.position += len(work.ids)
        job.recent_ids.extend(work.ids)
        if job.unfed_id is None:
            job.num_fed += len(work.ids)
        job.unfed_id = None
        events = self._events_of(work, outcome)
        if job.finish is not None and (work.is_last or not job.turn.keeps_state):
            self._retire(job)
            events.append(Ended(job.finish, outcome.snapshot or job.turn.start))
        return events

    def _events_of(self, work: Work, outcome: Outcome) -> list[Event]:
        job = work.job
        match work.ask:
            case Ask.CHOICE:
                job.unfed_id = outcome.token_id
                job.num_generated += 1
                job.finish = _finish_after(job, outcome.token_id)
                return [Generated(outcome.token_id, outcome.log_probability, outcome.candidates)]
            case Ask.CANDIDATES:
                job.finish = FinishReason.INPUT_END
                return [Predicted(outcome.candidates)]
            case Ask.SCORES:
                job.finish = FinishReason.INPUT_END if work.is_last else None
                return [Scored(work.ids, outcome.log_probabilities, outcome.ranks)] if work.ids else []
            case Ask.NOTHING:
                if work.is_last and job.finish is None:
                    job.finish = FinishReason.LENGTH  # a Generate of no tokens: feeding was all
                return []


def _ask_after(turn: Turn, *, is_fed: bool) -> tuple[Ask, bool]:
    """What to ask when a chunk of the input is consumed, and whether that ends the job."""
    match turn.goal:
        case Score():
            return Ask.SCORES, is_fed
        case Predict():
            return (Ask.CANDIDATES, True) if is_fed else (Ask.NOTHING, False)
        case Generate(max_tokens=0):
            return Ask.NOTHING, is_fed
        case Generate():
            return (Ask.CHOICE, False) if is_fed else (Ask.NOTHING, False)


def _finish_after(job: Job, token_id: int) -> FinishReason | None:
    goal = job.turn.goal
    assert isinstance(goal, Generate)
    if token_id in goal.stop_ids:
        return FinishReason.STOP_ID
    if goal.is_stop is not None and goal.is_stop(token_id):
        return FinishReason.STOP
    return FinishReason.LENGTH if job.num_generated >= goal.max_tokens else None
