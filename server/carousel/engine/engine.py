"""The loop that drives the lanes: plan -> run -> commit, in a thread of its own.

The event loop submits and cancels turns and receives what a step brought in one hand-over; it never waits for
arithmetic, nor the arithmetic for it. The engine knows ids and snapshots; text, sessions and transports are above it.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from carousel.engine.columns import Advances, Columns, Found, Waiter
from carousel.engine.delivery import Entry, Pace, Ticket
from carousel.engine.gathering import Gathering
from carousel.engine.jobs import Job, Outcome, Step
from carousel.engine.model import StepModel
from carousel.engine.runner import Runner
from carousel.engine.scheduler import Bounds, Delivery, Scheduler
from carousel.engine.step_budget import StepSeconds
from carousel.engine.step_place import StepPlace
from carousel.errors import CarouselError, ModelFailed, ShuttingDown
from carousel.metrics import Metrics
from carousel.turns import Ended, Event, Snapshot, Turn

_LAST = (Ended, CarouselError)
_MAX_STEPS_AHEAD = 16  # of the event loop, which else could fall behind without end where steps are very short


@dataclass(frozen=True, slots=True)
class _Brought:
    """What a step brought: events for jobs, rows for those that hold sequences; None when it failed."""

    started: float
    seconds: float
    deliveries: list[Delivery]
    found: Found | None
    num_left: int  # rows that waited when it was over


class _Accepted:
    """As a class, for a generator in its place would cost every turn a microsecond."""

    __slots__ = ("_engine", "_owner")

    def __init__(self, engine: "Engine", owner: str) -> None:
        self._engine = engine
        self._owner = owner

    def __enter__(self) -> None:
        self._engine.begin_request(self._owner)

    def __exit__(self, *raised: object) -> None:
        self._engine.end_request()


class Engine:
    """Continuous batching over the lanes of one model. Belongs to the event loop that starts it.

    The scheduler is touched by the event loop and by the engine's thread, each holding `_lock`; `_changed` wakes the
    thread; nothing else is shared. Steps of held sequences alone run in the event loop while they are short enough; one
    step runs at a time. `token_delay_seconds` is how long a token may wait for the next ones.
    """

    def __init__(
        self,
        model: StepModel,
        start_id: int,
        bounds: Bounds,
        metrics: Metrics,
        token_delay_seconds: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._start_id = start_id
        self._metrics = metrics
        self._scheduler = Scheduler(bounds)
        self._runner = Runner(model, clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._num_steps_ahead = 0  # run, and not received by the event loop yet
        self._running: Step | None = None  # in either place
        self._defect: Exception | None = None  # of ours, that ended the event loop's step
        self._place = StepPlace(bounds.max_lanes)
        self._gathering = Gathering(bounds.max_lanes)
        self._num_advancing = 0  # tokens of held sequences that are not answered yet
        self._is_stopping = False
        self._is_waking = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._entries: dict[Job, Entry] = {}
        self._pace = Pace(token_delay_seconds)
        self._num_accepted = 0  # requests whose turns are let in also while new ones are refused
        self._is_over = False  # nothing is let in any more
        self._is_idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._driving: asyncio.Future[None] | None = None
        self.start_snapshot: Snapshot  # of every fresh sequence
        self.columns: Columns  # of sequences that are held between turns

    def __repr__(self) -> str:
        return f"Engine({self._scheduler!r})"

    async def start(self) -> None:
        """Warm the model up on the start token, which also gives the start snapshot, and begin to run steps."""
        self._loop = asyncio.get_running_loop()
        self.start_snapshot = await self._loop.run_in_executor(self._thread, self._consume_start)
        bounds, hidden_size = self._scheduler.bounds, len(self.start_snapshot.hidden_H)
        self.columns = Columns(self._model.layout, hidden_size, bounds.ring_size, bounds.max_held_bytes)
        self._is_idle.set()
        self._driving = self._loop.run_in_executor(self._thread, self._drive)

    def check_open(self, owner: str = "") -> None:
        """Raise ShuttingDown or Overloaded if `submit` would now; cheap, to be called before state is loaded."""
        self._scheduler.check_open(owner)

    def accepted(self, owner: str = "") -> "_Accepted":
        """A request, for as long as it may submit turns: one that has begun when a drain begins is waited for, and its
        later turns are let in, while others are refused. Entering raises what `check_open` does."""
        return _Accepted(self, owner)

    def begin_request(self, owner: str) -> None:
        self.check_open(owner)
        self._num_accepted += 1
        self._is_idle.clear()

    def end_request(self) -> None:
        self._num_accepted -= 1
        self._note_idle()

    def submit(self, turn: Turn) -> Ticket:
        """Queue a turn. The caller must cancel the ticket when it loses interest before the end."""
        with self._lock:
            job = self._scheduler.submit(turn, is_accepted=self._num_accepted > 0 and not self._is_over)
        self._wake_soon()
        ticket = Ticket(lambda: self._cancel(job))
        self._entries[job] = Entry(ticket, self._clock())
        self._is_idle.clear()
        return ticket

    def advance(self, owner: str, row: int, next_row: int, token_id: int, num_candidates: int, waiter: Waiter) -> None:
        """Feed a sequence that stands in a row of `columns` one token. The waiter gets (ids, log-probabilities, whether
        they are numbers), or an error, also when nobody looks at it any more; until then no other step may use the two
        rows. Raises Overloaded."""
        with self._lock:
            self._scheduler.advances.add(owner, row, next_row, token_id, num_candidates, waiter)
        self._num_advancing += 1
        self._is_idle.clear()
        self._wake_soon()

    def create_future(self) -> "asyncio.Future[Any]":
        """Of the engine's loop. To ask for the running one costs a system call."""
        return self._loop.create_future()

    @property
    def is_open(self) -> bool:
        """Whether new turns are let in."""
        return not self._scheduler.is_closed

    @property
    def num_busy_lanes(self) -> int:
        return self._scheduler.num_busy

    async def follow(self, turn: Turn) -> AsyncGenerator[tuple[list[Event], Ended | None]]:
        """Run a turn; its events as they come, with the end when it is there. Close the iterator to give up."""
        ticket = self.submit(turn)
        ended: Ended | None = None
        try:
            while ended is None:
                events = await ticket.next_events()
                if isinstance(events[-1], Ended):
                    ended = events[-1]
                yield events, ended
        finally:
            ticket.cancel()

    async def finish(self, turn: Turn) -> tuple[list[Event], Ended]:
        """Run a turn to its end: the events before it, and the end."""
        ticket = self.submit(turn)
        events: list[Event] = []
        try:
            while not (events and isinstance(events[-1], Ended)):
                events += await ticket.next_events()
        finally:
            ticket.cancel()
        ended = events.pop()
        assert isinstance(ended, Ended)
        return events, ended

    async def until_broken(self) -> None:
        """Raises what broke the engine's own loop; nothing can run after that. Otherwise it never returns."""
        assert self._driving is not None
        await asyncio.shield(self._driving)

    async def drain(self, deadline_seconds: float) -> None:
        """Refuse new requests and turns, let the accepted ones finish, end the rest with ShuttingDown when the deadline
        passes."""
        self._scheduler.close()
        try:
            await asyncio.wait_for(self._is_idle.wait(), deadline_seconds)
        except TimeoutError:
            self._end_all(ShuttingDown("the server shut down before the turn was done; the session is unchanged"))

    async def stop(self) -> None:
        """End what is left and the thread. The step that runs now is waited for."""
        self._scheduler.close()
        self._end_all(ShuttingDown("the server is shutting down"))
        with self._lock:
            self._is_stopping = True
            self._changed.notify()
        if self._driving is not None:
            await asyncio.gather(self._driving, return_exceptions=True)
        self._thread.shutdown()

    def _drive(self) -> None:
        """The engine's thread."""
        try:
            while (step := self._next_step()) is not None:
                self._loop.call_soon_threadsafe(self._receive, step, self._carry_out(step))
        except Exception as error:  # a defect of ours; nobody shall wait for ever because of it
            self._loop.call_soon_threadsafe(self._break, error)
            raise

    def _next_step(self) -> Step | None:
        """What is to be done next, waiting for it; None when nothing shall be done any more."""
        with self._lock:
            while not self._is_stopping:
                if self._defect is not None:
                    raise self._defect
                if (seconds := self._seconds_to_gather()) > 0:
                    self._changed.wait(seconds)
                    continue
                if (step := self._plan()) is not None:
                    return step
                self._changed.wait()
            return None

    def _seconds_to_gather(self) -> float:
        """`_lock` is held. Those who have lanes are never kept waiting."""
        if self._running is not None or self._scheduler.has_turns:
            return 0.0
        return self._gathering.seconds_left(self._clock(), self._scheduler.advances.num_waiting)

    def _plan(self, max_advances: int | None = None) -> Step | None:
        """`_lock` is held. Whoever gets a step carries it out."""
        if self._running is None and self._num_steps_ahead < _MAX_STEPS_AHEAD:
            self._running = self._scheduler.plan(max_advances)
            return self._running
        return None

    def _carry_out(self, step: Step) -> _Brought:
        """Run the step and commit it, in either place."""
        started = self._clock()
        outcomes, parts, found = self._run(step)
        ended = self._clock()
        seconds = ended - started
        with self._lock:
            deliveries = self._scheduler.commit(step, outcomes, parts)
            num_left = self._scheduler.advances.num_waiting
            if step.advances is not None and not step.works:
                self._gathering.note(seconds, ended, len(step.advances), num_left)
            self._num_steps_ahead += 1
            self._running = None
        return _Brought(started, seconds, deliveries, found, num_left)

    def _run(self, step: Step) -> tuple[list[Outcome], StepSeconds | None, Found | None]:
        """With how long the parts of the lanes' works took, unless it failed."""
        try:
            found = self.columns.run(self._model, step.advances) if step.advances else None
            return (self._runner.run(step), self._runner.seconds, found) if step.works else ([], None, found)
        except Exception as error:
            self._metrics.step_failed(error)
            return [Outcome(error=_failed_to_run()) for _ in step.works], None, None

    def _receive(self, step: Step, brought: _Brought) -> None:
        """What a step brought, in the event loop."""
        with self._lock:
            if self._num_steps_ahead == _MAX_STEPS_AHEAD:
                self._changed.notify()
            self._num_steps_ahead -= 1
        if step.advances is not None:
            self._answer(step.advances, brought.found)
        for job in step.admitted:
            if job in self._entries:
                self._metrics.waited(brought.started - self._entries[job].submitted_at)
        for job, event in brought.deliveries:
            entry = self._entries.get(job)
            if entry is None:
                continue  # cancelled meanwhile
            self._pace.deliver(entry.ticket, event, is_first=not entry.has_spoken)
            entry.has_spoken = True
            if isinstance(event, _LAST):
                self._forget(job)
        self._pace.release_due()
        self._loop.call_soon(self._note, step, brought)  # after those who wait for it

    def _note(self, step: Step, brought: _Brought) -> None:
        self._metrics.step_done(brought.seconds, step, self._scheduler.num_queued)
        if step.advances is not None:
            self._metrics.held_turns_done(len(step.advances))
            if not step.works and self._place.note(brought.seconds, len(step.advances), brought.num_left):
                self._metrics.steps_run_in_loop(self._place.is_in_loop)

    def _answer(self, advances: Advances, found: Found | None) -> None:
        self._num_advancing -= len(advances)
        for index, waiter in enumerate(advances.waiters):
            if waiter.done():
                continue
            try:
                if found is None:
                    waiter.set_exception(_failed_to_run())
                else:
                    waiter.set_result((found.ids_AK[index], found.log_probs_AK[index], found.is_finite_A[index]))
            except Exception as error:  # a defect of ours; the others shall have their answers
                self._loop.call_exception_handler({"message": "a held turn was not delivered", "exception": error})
        self._note_idle()

    def _break(self, error: Exception) -> None:
        self._metrics.step_failed(error)
        self._scheduler.close()
        self._end_all(ModelFailed("the engine failed"))
        if self._running is not None and self._running.advances is not None:
            self._answer(self._running.advances, None)

    def _end_all(self, error: CarouselError) -> None:
        """And let nothing in any more, whoever it belongs to."""
        self._is_over = True
        entries, self._entries = self._entries, {}
        with self._lock:
            for job in entries:
                self._scheduler.cancel(job)
            waiters = self._scheduler.advances.clear()
            self._changed.notify()
        self._num_advancing -= len(waiters)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for entry in entries.values():
            self._pace.deliver(entry.ticket, error, is_first=False)
        self._note_idle()

    def _wake_soon(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Once for all turns that came in the same round of the event loop, so that they share a step."""
        self._is_waking = False
        with self._lock:
            is_thread_ahead = self._num_steps_ahead > 0  # answers come in the order of their steps
            is_here = self._place.is_in_loop and not self._scheduler.has_turns and not is_thread_ahead
            step = self._plan(self._place.max_rows) if is_here else None
            if step is None:
                self._changed.notify()
        if step is not None:
            self._run_here(step)

    def _run_here(self, step: Step) -> None:
        try:
            brought = self._carry_out(step)
        except Exception as error:  # the thread ends with it, as with one of its own
            with self._lock:
                self._defect = error
                self._changed.notify()
            return
        self._receive(step, brought)
        if self._scheduler.advances.num_waiting:
            self._wake_soon()

    def _cancel(self, job: Job) -> None:
        if job in self._entries:
            self._forget(job)
            with self._lock:
                self._scheduler.cancel(job)
                self._changed.notify()  # so that its lane is freed although nothing else may be running

    def _forget(self, job: Job) -> None:
        del self._entries[job]
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._entries and not self._num_accepted and not self._num_advancing:
            self._is_idle.set()

    def _consume_start(self) -> Snapshot:
        ids_BT = np.array([[self._start_id]], np.int64)
        hidden_BTH, state = self._model.core(ids_BT, np.ones(1, np.int32), self._model.layout.initial(1))
        self._model.candidates(hidden_BTH[:, 0], 1)
        return Snapshot(0, tuple(array[0].copy() for array in state), hidden_BTH[0, 0].copy())


def _failed_to_run() -> ModelFailed:
    return ModelFailed("the model failed to run")
