"""The loop that drives the lanes: plan -> run -> commit, and the tickets through which callers follow their turns.

The event loop decides and delivers; the model runs in one worker thread, so the loop never waits for arithmetic. The
engine knows token ids and snapshots; text, sessions and transports are above it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from carousel.engine.model import StepModel
from carousel.engine.runner import Runner
from carousel.engine.scheduler import Bounds, Delivery, Job, Outcome, Scheduler, Step
from carousel.errors import CarouselError, ModelFailed, ShuttingDown
from carousel.metrics import Metrics
from carousel.turns import Ended, Event, Snapshot, Turn


class Ticket:
    """The caller's end of a turn. Events come in order; exactly one Ended or one error is the last."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._arrived: list[Event | CarouselError] = []
        self._has_news = asyncio.Event()
        self.cancel = cancel  # frees the lane at the next step; harmless after the end

    async def next_events(self) -> list[Event]:
        """All events since the last call, waiting for at least one. Raises the turn's error after them."""
        await self._has_news.wait()
        if isinstance(self._arrived[0], CarouselError):
            raise self._arrived[0]
        events = [event for event in self._arrived if not isinstance(event, CarouselError)]
        del self._arrived[: len(events)]
        if not self._arrived:
            self._has_news.clear()
        return events

    def deliver(self, event: Event | CarouselError) -> None:
        self._arrived.append(event)
        self._has_news.set()


class Engine:
    """Continuous batching over the lanes of one model. Belongs to the event loop that starts it."""

    def __init__(self, model: StepModel, start_id: int, bounds: Bounds, metrics: Metrics) -> None:
        self._model = model
        self._start_id = start_id
        self._metrics = metrics
        self._bounds = bounds
        self._scheduler = Scheduler(bounds)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._tickets: dict[Job, tuple[Ticket, float]] = {}
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._runner: Runner
        self.start_snapshot: Snapshot  # of every fresh sequence

    def __repr__(self) -> str:
        return f"Engine({self._scheduler!r})"

    async def start(self) -> None:
        """Warm the model up on the start token, which also gives the start snapshot, and begin to run steps."""
        loop = asyncio.get_running_loop()
        self.start_snapshot = await loop.run_in_executor(self._thread, self._consume_start)
        self._runner = Runner(self._model, len(self.start_snapshot.hidden_H), self._bounds.max_lanes)
        self._is_idle.set()
        self._loop_task = loop.create_task(self._run_loop(), name="engine")

    def check_open(self) -> None:
        """Raise ShuttingDown or Overloaded if `submit` would now; cheap, to be called before state is loaded."""
        self._scheduler.check_open()

    def submit(self, turn: Turn) -> Ticket:
        """Queue a turn. The caller must cancel the ticket when it loses interest before the end."""
        job = self._scheduler.submit(turn)
        ticket = Ticket(lambda: self._cancel(job))
        self._tickets[job] = (ticket, time.perf_counter())
        self._metrics.queue_depth(self._scheduler.num_queued)
        self._is_idle.clear()
        self._has_work.set()
        return ticket

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

    async def until_broken(self) -> None:
        """Raises what broke the engine's own loop; nothing can run after that. Otherwise it never returns."""
        assert self._loop_task is not None
        await asyncio.shield(self._loop_task)

    async def drain(self, deadline_seconds: float) -> None:
        """Refuse new turns, let the accepted ones finish, end the rest with ShuttingDown when the deadline passes."""
        self._scheduler.close()
        try:
            await asyncio.wait_for(self._is_idle.wait(), deadline_seconds)
        except TimeoutError:
            self._end_all(ShuttingDown("the server shut down before the turn was done; the session is unchanged"))

    async def stop(self) -> None:
        """End what is left and the thread. The step that runs now is waited for."""
        self._scheduler.close()
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._deliver(self._scheduler.abandon(ShuttingDown("the server is shutting down")))

    async def _run_loop(self) -> None:
        try:
            await self._run_steps()
        except Exception as error:  # a defect of ours; nobody shall wait for ever because of it
            self._metrics.step_failed(error)
            self._scheduler.close()
            self._end_all(ModelFailed("the engine failed"))
            self._is_idle.set()
            raise

    async def _run_steps(self) -> None:
        while True:
            step = self._scheduler.plan()
            if step is None:
                self._rest()
                await self._has_work.wait()
                continue
            self._note_admitted(step)
            started = time.perf_counter()
            outcomes = await self._run(step)
            self._metrics.step_done(time.perf_counter() - started, step, self._scheduler.num_queued)
            self._deliver(self._scheduler.commit(step, outcomes))

    async def _run(self, step: Step) -> list[Outcome]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._runner.run, step)
        except Exception as error:
            self._metrics.step_failed(error)
            return [Outcome(error=ModelFailed("the model failed to run")) for _ in step.works]

    def _rest(self) -> None:
        self._has_work.clear()
        self._is_idle.set()

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for job, event in deliveries:
            entry = self._tickets.get(job)
            if entry is None:
                continue  # cancelled meanwhile
            entry[0].deliver(event)
            if isinstance(event, Ended | CarouselError):
                del self._tickets[job]

    def _end_all(self, error: CarouselError) -> None:
        for ticket, _ in self._tickets.values():
            ticket.deliver(error)
        self._tickets.clear()

    def _cancel(self, job: Job) -> None:
        if self._tickets.pop(job, None) is not None:
            self._scheduler.cancel(job)
            self._has_work.set()  # so that its lane is freed although nothing else may be running

    def _note_admitted(self, step: Step) -> None:
        now = time.perf_counter()
        admitted = {lane for lane, _ in step.admitted}
        for work in step.works:
            if work.lane in admitted and work.job in self._tickets:
                self._metrics.waited(now - self._tickets[work.job][1])

    def _consume_start(self) -> Snapshot:
        ids_BT = np.array([[self._start_id]], np.int64)
        hidden_BTH, state = self._model.core(ids_BT, np.ones(1, np.int32), self._model.layout.initial(1))
        self._model.candidates(hidden_BTH[:, 0], 1)
        return Snapshot(0, tuple(array[0].copy() for array in state), hidden_BTH[0, 0].copy())
