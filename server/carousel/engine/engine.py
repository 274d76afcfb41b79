"""The loop that drives the lanes: plan -> run -> commit, in its own thread.

The event loop submits and cancels turns, and receives a step's results in one hand-over. It never waits for arithmetic,
and arithmetic never waits for it. The engine knows ids and snapshots; text, sessions and transports are above it.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from carousel.engine.acceptance import Accepted
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
from carousel.quotas import Quotas
from carousel.shares import OwnerLimits
from carousel.turns import Ended, Event, Snapshot, Turn

_LAST = (Ended, CarouselError)
_NO_QUOTAS = Quotas(OwnerLimits())
_MAX_STEPS_AHEAD = 16  # else the event loop could fall behind without bound where steps are very short


@dataclass(frozen=True, slots=True)
class _Brought:
    """A step's results: events for jobs, and `found` for held sequences, which is None when the step failed."""

    started: float
    seconds: float
    deliveries: list[Delivery]
    found: Found | None
    num_left: int  # rows that waited when the step ended


class Engine:
    """Continuous batching over the lanes of one model. Belongs to the event loop that starts it.

    The event loop and the engine's thread share the scheduler and nothing else. Each holds `_lock` when it uses it;
    `_changed` wakes the thread. Steps with only held sequences run in the event loop while they are short enough. One
    step runs at a time. A token may wait `token_delay_seconds` for the next tokens.
    """

    def __init__(
        self,
        model: StepModel,
        start_id: int,
        bounds: Bounds,
        metrics: Metrics,
        token_delay_seconds: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        quotas: Quotas = _NO_QUOTAS,
    ) -> None:
        self._model = model
        self._start_id = start_id
        self._metrics = metrics
        self._scheduler = Scheduler(bounds)
        self._runner = Runner(model, clock)
        self._clock = clock
        self._quotas = quotas
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._num_steps_ahead = 0  # finished, but not yet received by the event loop
        self._running: Step | None = None  # in the thread or in the event loop
        self._defect: Exception | None = None  # a defect of ours that ended a step in the event loop
        self._place = StepPlace(bounds.max_lanes)
        self._gathering = Gathering(bounds.max_lanes)
        self._num_advancing = 0  # unanswered tokens of held sequences
        self._is_stopping = False
        self._is_waking = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._entries: dict[Job, Entry] = {}
        self._pace = Pace(token_delay_seconds)
        self._num_accepted = 0  # requests whose turns are accepted even while new requests are refused
        self._is_over = False  # no turn is accepted any more
        self._is_idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._driving: asyncio.Future[None] | None = None
        self.start_snapshot: Snapshot  # of every fresh sequence
        self.columns: Columns  # of sequences held between turns

    def __repr__(self) -> str:
        return f"Engine({self._scheduler!r})"

    async def start(self) -> None:
        """Warms the model up on the start token, which also gives the start snapshot. Then begins to run steps."""
        self._loop = asyncio.get_running_loop()
        self.start_snapshot = await self._loop.run_in_executor(self._thread, self._consume_start)
        bounds, hidden_size = self._scheduler.bounds, len(self.start_snapshot.hidden_H)
        self.columns = Columns(self._model.layout, hidden_size, bounds.ring_size, bounds.max_held_bytes)
        self._is_idle.set()
        self._driving = self._loop.run_in_executor(self._thread, self._drive)

    def check_open(self, owner: str = "") -> None:
        """Raises ShuttingDown or Overloaded if `submit` would now. It is cheap: call it before loading state."""
        self._scheduler.check_open(owner)

    def accepted(self, owner: str = "") -> Accepted:
        """Marks a request while it may submit turns. A drain waits for a request that has begun and still accepts its
        turns; it refuses others. Entering raises what `check_open` raises."""
        return Accepted(self, owner)

    def begin_request(self, owner: str) -> None:
        self.check_open(owner)
        self._num_accepted += 1
        self._is_idle.clear()

    def take_message(self, owner: str) -> None:
        """Counts a message of a stream as a request. Raises Overloaded. `advance` does so by itself."""
        self._quotas.take_request(owner)

    def end_request(self) -> None:
        self._num_accepted -= 1
        self._note_idle()

    def submit(self, turn: Turn) -> Ticket:
        """Queues a turn. A caller that gives up before the end must cancel the ticket."""
        with self._lock:
            job = self._scheduler.submit(turn, is_accepted=self._num_accepted > 0 and not self._is_over)
        self._wake_soon()
        ticket = Ticket(lambda: self._cancel(job))
        self._entries[job] = Entry(ticket, self._clock(), turn.timeline)
        self._is_idle.clear()
        return ticket

    def advance(self, owner: str, row: int, next_row: int, token_id: int, num_candidates: int, waiter: Waiter) -> None:
        """Feeds one token to the sequence in a row of `columns`. The waiter gets (ids, log-probabilities, whether they
        are finite) or an error, even if its caller has gone. Until then, no other step may use the two rows. Raises
        Overloaded."""
        self._quotas.take_request(owner)
        with self._lock:
            self._scheduler.advances.add(owner, row, next_row, token_id, num_candidates, waiter)
        self._quotas.charge(owner, 1)
        self._num_advancing += 1
        self._is_idle.clear()
        self._wake_soon()

    def create_future(self) -> "asyncio.Future[Any]":
        """Returns a future of the engine's loop. Looking up the running loop would cost a system call."""
        return self._loop.create_future()

    @property
    def is_open(self) -> bool:
        """Whether new turns are accepted."""
        return not self._scheduler.is_closed

    @property
    def num_busy_lanes(self) -> int:
        return self._scheduler.num_busy

    async def follow(self, turn: Turn) -> AsyncGenerator[tuple[list[Event], Ended | None]]:
        """Runs a turn. Yields its events as they come, the end with the last ones. Close the iterator to give up."""
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
        """Runs a turn to its end. Returns the events before the end, and the end."""
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
        """Waits without end. Raises the error that breaks the engine's loop; after it, nothing can run."""
        assert self._driving is not None
        await asyncio.shield(self._driving)

    async def drain(self, deadline_seconds: float) -> None:
        """Refuses new requests and turns, and lets the accepted ones finish. Ends the rest with ShuttingDown at the
        deadline."""
        self._scheduler.close()
        try:
            await asyncio.wait_for(self._is_idle.wait(), deadline_seconds)
        except TimeoutError:
            self._end_all(ShuttingDown("the server shut down before the turn was done; the session is unchanged"))

    async def stop(self) -> None:
        """Ends the remaining turns and the thread. Waits for the running step."""
        self._scheduler.close()
        self._end_all(ShuttingDown("the server is shutting down"))
        with self._lock:
            self._is_stopping = True
            self._changed.notify()
        if self._driving is not None:
            await asyncio.gather(self._driving, return_exceptions=True)
        self._thread.shutdown()

    def _drive(self) -> None:
        """Runs steps in the engine's thread."""
        try:
            while (step := self._next_step()) is not None:
                self._loop.call_soon_threadsafe(self._receive, step, self._carry_out(step))
        except Exception as error:  # a defect of ours; no caller may hang
            self._loop.call_soon_threadsafe(self._break, error)
            raise

    def _next_step(self) -> Step | None:
        """Waits for the next step and returns it, or None when the engine stops."""
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
        """Returns how long to wait for more held sequences. Turns with lanes never wait. The caller holds `_lock`."""
        if self._running is not None or self._scheduler.has_turns:
            return 0.0
        return self._gathering.seconds_left(self._clock(), self._scheduler.advances.num_waiting)

    def _plan(self, max_advances: int | None = None) -> Step | None:
        """Plans the next step, which the caller must run. The caller holds `_lock`."""
        if self._running is None and self._num_steps_ahead < _MAX_STEPS_AHEAD:
            self._running = self._scheduler.plan(max_advances)
            return self._running
        return None

    def _carry_out(self, step: Step) -> _Brought:
        """Runs the step and commits it, in the thread or in the event loop."""
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
        """Runs the step. Also returns how long the parts of the lanes' works took, unless the step failed."""
        try:
            found = self.columns.run(self._model, step.advances) if step.advances else None
            return (self._runner.run(step), self._runner.seconds, found) if step.works else ([], None, found)
        except Exception as error:
            self._metrics.step_failed(error)
            return [Outcome(error=_failed_to_run()) for _ in step.works], None, None

    def _receive(self, step: Step, brought: _Brought) -> None:
        """Hands out a step's results, in the event loop."""
        with self._lock:
            if self._num_steps_ahead == _MAX_STEPS_AHEAD:
                self._changed.notify()
            self._num_steps_ahead -= 1
        if step.advances is not None:
            self._answer(step.advances, brought.found)
        for job in step.admitted:
            if (entry := self._entries.get(job)) is not None:
                entry.begin(brought.started)
                self._metrics.waited(brought.started - entry.submitted_at, entry.timeline.exemplar)
        for job, event in brought.deliveries:
            entry = self._entries.get(job)
            if entry is None:
                continue  # cancelled meanwhile
            self._pace.deliver(entry.ticket, event, is_first=not entry.has_spoken)
            entry.hear(event, brought.started + brought.seconds)
            if isinstance(event, _LAST):
                self._forget(job)
        self._pace.release_due()
        self._loop.call_soon(self._note, step, brought)  # after the waiting callers

    def _note(self, step: Step, brought: _Brought) -> None:
        self._metrics.step_done(brought.seconds, step, self._scheduler.num_queued)
        if self._quotas.counts:
            for work in step.works:
                self._quotas.charge(work.job.turn.owner, len(work.ids))
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
            except Exception as error:  # a defect of ours; the others still get their answers
                self._loop.call_exception_handler({"message": "a held turn was not delivered", "exception": error})
        self._note_idle()

    def _break(self, error: Exception) -> None:
        self._metrics.step_failed(error)
        self._scheduler.close()
        self._end_all(ModelFailed("the engine failed"))
        if self._running is not None and self._running.advances is not None:
            self._answer(self._running.advances, None)

    def _end_all(self, error: CarouselError) -> None:
        """Ends all turns with the error, and accepts no more turns of any request."""
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
        self._metrics.queue_depth(self._scheduler.num_queued)
        for entry in entries.values():
            self._pace.deliver(entry.ticket, error, is_first=False)
        self._note_idle()

    def _wake_soon(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Wakes the engine once for all turns of one round of the event loop, so that they share a step."""
        self._is_waking = False
        with self._lock:
            is_thread_ahead = self._num_steps_ahead > 0  # answers must come in the order of the steps
            is_here = self._place.is_in_loop and not self._scheduler.has_turns and not is_thread_ahead
            step = self._plan(self._place.max_rows) if is_here else None
            if step is None:
                self._changed.notify()
        if step is not None:
            self._run_here(step)

    def _run_here(self, step: Step) -> None:
        try:
            brought = self._carry_out(step)
        except Exception as error:  # ends the thread, like an error in the thread itself
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
                self._changed.notify()  # frees the lane even if nothing else runs
            self._metrics.queue_depth(self._scheduler.num_queued)

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
