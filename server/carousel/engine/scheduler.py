"""Which turns run: they wait in a queue, hold a lane while they run, and leave. Decisions only: no I/O, arrays, clock.

A step is `plan` -> (the runner runs it) -> `commit`. `plan` says which tokens each lane consumes and what the model
computes afterwards. `commit` takes the results, advances every job and returns the events to deliver. State changes
only in these calls and in `submit` and `cancel`, and only one of them runs at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from carousel.engine.advance_line import AdvanceLine
from carousel.engine.jobs import Ask, Job, Outcome, Step, Work
from carousel.engine.line import Line, pushed_out
from carousel.engine.step_budget import StepBudget, StepSeconds, StepShape
from carousel.errors import CarouselError, ShuttingDown
from carousel.records import record
from carousel.settings import Settings
from carousel.shares import LimitsByOwner
from carousel.turns import (
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
    Turn,
)


@record(frozen=True, slots=True)
class Bounds:
    """How much runs at once. A step takes at most `max_prompt_tokens_per_step` tokens of prompts, shared by the lanes
    with more than one token to feed; fewer while other lanes wait for their next token (`StepBudget`). In addition to
    `max_lanes` there are `max_short_lanes` for turns that generate nothing and feed at most `max_chunk_tokens`: they do
    not wait for long turns. A step also takes one token each of up to `max_lanes` held sequences. Their rows,
    `ring_size` of each, take at most `max_held_bytes`.
    """

    max_lanes: int
    max_short_lanes: int
    max_queued_turns: int
    max_prompt_tokens_per_step: int
    max_chunk_tokens: int
    penalty_window: int
    owner_limits: LimitsByOwner
    max_held_bytes: int
    ring_size: int

    @classmethod
    def of(cls, settings: Settings, max_held_bytes: int = 0, owner_limits: LimitsByOwner | None = None) -> "Bounds":
        return cls(
            max_lanes=settings.max_lanes,
            max_short_lanes=settings.max_short_lanes,
            max_queued_turns=settings.max_queued_turns,
            max_prompt_tokens_per_step=settings.max_prompt_tokens_per_step,
            max_chunk_tokens=settings.max_chunk_tokens,
            penalty_window=settings.penalty_window,
            owner_limits=owner_limits or settings.owner_limits,
            max_held_bytes=max_held_bytes,
            ring_size=settings.retained_turns + 2,
        )


Delivery = tuple[Job, Event | CarouselError]
_OF_NO_TOKEN = (Ask.NOTHING, Ask.SCORES)


@dataclass
class Scheduler:
    """A line of jobs, the lanes, and which job has which lane. Lanes from `max_lanes` on are short lanes."""

    bounds: Bounds
    is_closed: bool = False  # set by close(): refuses new turns
    _lanes: dict[int, Job] = field(default_factory=dict)  # in order of admission
    _budget: StepBudget = field(default_factory=StepBudget)
    _undelivered: list[Delivery] = field(default_factory=list)  # to jobs pushed out of the line
    _num_submitted: int = 0
    advances: AdvanceLine = field(init=False)
    _line: Line = field(init=False)
    _free: list[int] = field(init=False)
    _free_short: list[int] = field(init=False)

    def __post_init__(self) -> None:
        bounds = self.bounds
        self.advances = AdvanceLine(bounds.max_lanes, bounds.owner_limits)
        self._line = Line(bounds.max_queued_turns, bounds.owner_limits)
        self._free = list(range(bounds.max_lanes - 1, -1, -1))
        self._free_short = list(range(bounds.max_lanes + bounds.max_short_lanes - 1, bounds.max_lanes - 1, -1))

    def __repr__(self) -> str:
        return f"Scheduler({self.num_busy} of {self.bounds.max_lanes} lanes busy, {self.num_queued} queued)"

    @property
    def num_queued(self) -> int:
        return self._line.num_queued

    @property
    def num_busy(self) -> int:
        return len(self._lanes)

    @property
    def has_turns(self) -> bool:
        """Whether turns are in lanes or wait for one."""
        return bool(self._lanes or self._line.num_queued or self._undelivered)

    def check_open(self, owner: str = "") -> None:
        """Raises what `submit` would raise now: ShuttingDown, or Overloaded when the owner's turns have no room."""
        if self.is_closed:
            raise ShuttingDown("the server is shutting down")
        self._line.check_room(owner)

    def submit(self, turn: Turn, *, is_accepted: bool = False) -> Job:
        """Queues a turn. Every job ends in exactly one delivery of Ended or an error, unless it is cancelled. After
        `close`, turns of requests that were accepted before it are still queued."""
        if self.is_closed and not is_accepted:
            self.check_open()
        self._line.check_room(turn.owner)
        self._num_submitted += 1
        is_short = len(turn.ids) <= self.bounds.max_chunk_tokens and _generates_nothing(turn.goal)
        job = Job(turn, self.bounds.penalty_window, self._num_submitted, is_short)
        loser = self._line.add(job)
        if loser is not None:
            self._undelivered.append((loser, pushed_out(self.num_queued)))
        return job

    def cancel(self, job: Job) -> None:
        """Forgets the job. Its lane is free at the latest when the running step commits. Idempotent."""
        job.is_cancelled = True
        if job.lane is None:
            self._line.remove(job)

    def close(self) -> None:
        self.is_closed = True

    def plan(self, max_advances: int | None = None) -> Step | None:
        """Admits what fits and divides the step among the lanes. The step has at most `max_advances` held sequences,
        and never more than `max_lanes`. Returns None when there is no work."""
        for job in [job for job in self._lanes.values() if job.is_cancelled]:
            self._retire(job)
        admitted = tuple(self._admit_waiting()) if self._line.num_queued else ()
        prompts = [job for job in self._lanes.values() if job.num_left > 1]
        chunk = self._chunk_size(prompts) if prompts else 1
        works = tuple([self._plan_job(job, chunk) for job in self._lanes.values()])
        advances = self.advances.pick(max_advances)
        return Step(admitted, works, len(prompts), advances) if works or advances else None

    def commit(self, step: Step, outcomes: Sequence[Outcome], seconds: StepSeconds | None = None) -> list[Delivery]:
        """Advances every job of the step; outcomes[i] belongs to step.works[i]. `seconds` is how long they took."""
        if seconds is not None:
            self._budget.note(_shape(step), seconds)
        deliveries: list[Delivery] = []
        if self._undelivered:
            deliveries = [delivery for delivery in self._undelivered if not delivery[0].is_cancelled]
            self._undelivered = []
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
        """Admits waiting turns, to short lanes last: for a turn that still waits, the other lanes are busy or its owner
        is at its limit."""
        admitted = self._line.admit(len(self._free)) if self._free else []
        for job in admitted:
            job.lane = self._free.pop()
            self._lanes[job.lane] = job
        if self._line.num_short and self._free_short:
            for job in self._line.admit(len(self._free_short), short=True):
                job.lane = self._free_short.pop()
                self._lanes[job.lane] = job
                admitted.append(job)
        return admitted

    def _retire(self, job: Job) -> None:
        lane = job.lane
        assert lane is not None
        job.lane = None
        del self._lanes[lane]
        is_short = lane >= self.bounds.max_lanes
        (self._free_short if is_short else self._free).append(lane)
        self._line.left(job, is_short)

    def _chunk_size(self, prompts: Sequence[Job]) -> int:
        """Returns how many tokens each lane with more than one to feed may feed in this step."""
        bounds, num_prompts = self.bounds, len(prompts)
        chunk = min(bounds.max_prompt_tokens_per_step // num_prompts, bounds.max_chunk_tokens)
        if num_waiting := len(self._lanes) - num_prompts:
            num_rated = sum([isinstance(job.turn.goal, Score) for job in prompts])
            chunk = min(chunk, self._budget.chunk(num_waiting, num_prompts, num_rated))
        return max(1, chunk)

    def _plan_job(self, job: Job, chunk: int) -> Work:
        """Plans a job's work: to feed its last chosen token, or the next chunk of its input."""
        assert job.lane is not None
        if job.unfed_id is not None:
            is_last = job.finish is not None
            return Work(job.lane, (job.unfed_id,), Ask.NOTHING if is_last else job.ask, is_last, job)
        left = job.num_left
        size = min(left, chunk)
        ids = job.turn.ids[job.num_fed : job.num_fed + size]
        return Work(job.lane, ids, *_ask_after(job, is_fed=size == left), job, left > 1)

    def _advance(self, work: Work, outcome: Outcome, deliveries: list[Delivery]) -> None:
        """Records what a lane consumed and its result. Retires the job when that was all."""
        job = work.job
        num_consumed = len(work.ids)
        job.position += num_consumed
        job.recent_ids.extend(work.ids)
        if job.unfed_id is None:
            job.num_fed += num_consumed
            job.num_left -= num_consumed
        job.unfed_id = None
        event = self._event_of(work, outcome)
        if event is not None:
            deliveries.append((job, event))
        if job.finish is not None and (work.is_last or not job.turn.keeps_state):
            self._retire(job)
            deliveries.append((job, Ended(job.finish, outcome.snapshot or job.turn.start)))

    def _event_of(self, work: Work, outcome: Outcome) -> Event | None:
        job = work.job
        if work.ask is Ask.NOTHING:
            if work.is_last and job.finish is None:
                job.finish = FinishReason.LENGTH  # a Generate of no tokens: feeding was all
            return None
        match job.turn.goal:
            case Generate():
                job.unfed_id = outcome.token_id
                job.num_generated += 1
                job.finish = _finish_after(job, outcome.token_id)
                return Generated(outcome.token_id, outcome.log_probability, outcome.candidates)
            case Predict():
                job.finish = FinishReason.INPUT_END
                return Predicted(outcome.candidates)
            case Score():
                job.finish = FinishReason.INPUT_END if work.is_last else None
                if not work.ids:
                    return None
                return Scored(work.ids, outcome.log_probabilities, outcome.ranks, outcome.scored_candidates)


def _shape(step: Step) -> StepShape:
    if not step.num_prompts:
        return StepShape(len(step.works))
    chunks = [work for work in step.works if work.is_chunk]
    return StepShape(
        len(step.works) - len(chunks) + sum([work.ask not in _OF_NO_TOKEN for work in chunks]),
        len(chunks),
        max([len(work.ids) for work in chunks]),
        sum([len(work.ids) for work in step.works if work.ask is Ask.SCORES]),
    )


def _generates_nothing(goal: Goal) -> bool:
    return not isinstance(goal, Generate) or goal.max_tokens == 0


def _ask_after(job: Job, *, is_fed: bool) -> tuple[Ask, bool]:
    """Returns the ask after a chunk of the input, and whether that ends the job."""
    match job.turn.goal:
        case Score():
            return job.ask, is_fed
        case Predict():
            return (job.ask, True) if is_fed else (Ask.NOTHING, False)
        case Generate(max_tokens=0):
            return Ask.NOTHING, is_fed
        case Generate():
            return (job.ask, False) if is_fed else (Ask.NOTHING, False)


def _finish_after(job: Job, token_id: int) -> FinishReason | None:
    goal = job.turn.goal
    assert isinstance(goal, Generate)
    if token_id in goal.stop_ids:
        return FinishReason.STOP_ID
    if goal.is_stop is not None and goal.is_stop(token_id):
        return FinishReason.STOP
    return FinishReason.LENGTH if job.num_generated >= goal.max_tokens else None
