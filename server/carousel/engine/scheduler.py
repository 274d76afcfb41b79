"""Who runs: turns wait in a queue, hold a lane while they run, and leave. Decisions only: no I/O, no arrays, no clock.

A step is `plan` -> (the runner runs it) -> `commit`. Plan says which tokens each lane consumes and what is asked of the
model afterwards; commit takes what came back, moves every job on and returns the events to deliver. All state changes
happen in these calls and in `submit` and `cancel`, one of them at a time, so no other moment needs thinking about.
"""

import collections
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from carousel.errors import CarouselError, Overloaded, ShuttingDown
from carousel.records import record
from carousel.turns import (
    Candidate,
    Ended,
    Event,
    FinishReason,
    Generate,
    Generated,
    Goal,
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
    LIKELIEST = enum.auto()  # the next token of a Generate that takes the likeliest and tells nothing of it
    CHOICE = enum.auto()  # the next token of any other Generate
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
        self.ask_for_token = _ask_for_token(turn.goal)

    def __repr__(self) -> str:
        fed = f"{self.num_fed}/{len(self.turn.ids)} fed"
        return f"Job(lane {self.lane}, {fed}, {self.num_generated} generated)"


@record(frozen=True, slots=True)
class Work:
    """One lane's part of a step: consume `ids` (none: keep the hidden vector it has), then answer `ask`."""

    lane: int
    ids: tuple[int, ...]
    ask: Ask
    is_last: bool  # the lane's state is wanted back
    job: Job


@record(frozen=True, slots=True)
class Step:
    """What one run of the model does. The lanes of `admitted` jobs take their snapshots first."""

    admitted: tuple[Job, ...]
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


@record(frozen=True, slots=True)
class Bounds:
    """How much runs at once. A step takes so many tokens of prompts, shared by the lanes that have more than one to
    feed; fewer while other lanes wait for their next token, so that a long prompt does not keep them."""

    max_lanes: int = 64
    max_queued_turns: int = 256
    max_prompt_tokens_per_step: int = 1024
    max_prompt_tokens_beside_others: int = 16
    max_chunk_tokens: int = 64
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

    def plan(self) -> Step | None:
        """Admit what fits and divide the step among the lanes. None when nothing is to be done."""
        for job in [job for job in self._lanes.values() if job.is_cancelled]:
            self._retire(job)
        admitted = tuple(self._admit_waiting())
        chunk = self._chunk_size()
        works = tuple([self._plan_job(job, chunk) for job in self._lanes.values()])
        return Step(admitted, works) if works else None

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
                self._advance(work, outcome, deliveries)
        return deliveries

    def _admit_waiting(self) -> list[Job]:
        admitted = []
        while self._queue and self._free:
            job = self._queue.popleft()
            job.lane = self._free.pop()
            self._lanes[job.lane] = job
            admitted.append(job)
        return admitted

    def _retire(self, job: Job) -> None:
        assert job.lane is not None
        del self._lanes[job.lane]
        self._free.append(job.lane)
        job.lane = None

    def _chunk_size(self) -> int:
        """What each lane with more than a token to feed may feed in this step."""
        num_feeding = sum([len(job.turn.ids) - job.num_fed > 1 for job in self._lanes.values()])
        is_alone = num_feeding == len(self._lanes)
        bounds = self.bounds
        budget = bounds.max_prompt_tokens_per_step if is_alone else bounds.max_prompt_tokens_beside_others
        return min(max(1, budget // max(1, num_feeding)), bounds.max_chunk_tokens)

    def _plan_job(self, job: Job, chunk: int) -> Work:
        """The last choice; or the next chunk of the input."""
        assert job.lane is not None
        if job.unfed_id is not None:
            is_last = job.finish is not None
            return Work(job.lane, (job.unfed_id,), Ask.NOTHING if is_last else job.ask_for_token, is_last, job)
        left = len(job.turn.ids) - job.num_fed
        size = min(left, chunk)
        ids = job.turn.ids[job.num_fed : job.num_fed + size]
        return Work(job.lane, ids, *_ask_after(job, is_fed=size == left), job)

    def _advance(self, work: Work, outcome: Outcome, deliveries: list[Delivery]) -> None:
        """Record what a lane consumed and was told; retire it when that was all."""
        job = work.job
        num_consumed = len(work.ids)
        job.position += num_consumed
        job.recent_ids.extend(work.ids)
        if job.unfed_id is None:
            job.num_fed += num_consumed
        job.unfed_id = None
        event = self._event_of(work, outcome)
        if event is not None:
            deliveries.append((job, event))
        if job.finish is not None and (work.is_last or not job.turn.keeps_state):
            self._retire(job)
            deliveries.append((job, Ended(job.finish, outcome.snapshot or job.turn.start)))

    def _event_of(self, work: Work, outcome: Outcome) -> Event | None:
        job = work.job
        match work.ask:
            case Ask.LIKELIEST | Ask.CHOICE:
                job.unfed_id = outcome.token_id
                job.num_generated += 1
                job.finish = _finish_after(job, outcome.token_id)
                return Generated(outcome.token_id, outcome.log_probability, outcome.candidates)
            case Ask.CANDIDATES:
                job.finish = FinishReason.INPUT_END
                return Predicted(outcome.candidates)
            case Ask.SCORES:
                job.finish = FinishReason.INPUT_END if work.is_last else None
                return Scored(work.ids, outcome.log_probabilities, outcome.ranks) if work.ids else None
            case Ask.NOTHING:
                if work.is_last and job.finish is None:
                    job.finish = FinishReason.LENGTH  # a Generate of no tokens: feeding was all
                return None


def _ask_for_token(goal: Goal) -> Ask:
    is_plain = isinstance(goal, Generate) and goal.sampling.is_plain_greedy and goal.num_candidates == 0
    return Ask.LIKELIEST if is_plain else Ask.CHOICE


def _ask_after(job: Job, *, is_fed: bool) -> tuple[Ask, bool]:
    """What to ask when a chunk of the input is consumed, and whether that ends the job."""
    match job.turn.goal:
        case Score():
            return Ask.SCORES, is_fed
        case Predict():
            return (Ask.CANDIDATES, True) if is_fed else (Ask.NOTHING, False)
        case Generate(max_tokens=0):
            return Ask.NOTHING, is_fed
        case Generate():
            return (job.ask_for_token, False) if is_fed else (Ask.NOTHING, False)


def _finish_after(job: Job, token_id: int) -> FinishReason | None:
    goal = job.turn.goal
    assert isinstance(goal, Generate)
    if token_id in goal.stop_ids:
        return FinishReason.STOP_ID
    if goal.is_stop is not None and goal.is_stop(token_id):
        return FinishReason.STOP
    return FinishReason.LENGTH if job.num_generated >= goal.max_tokens else None
