"""The workers: as many as there shall be. What dies is started again, and all drain together."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from carousel.records import record
from carousel.workers.link import Word
from carousel.workers.process import Orders, WorkerProcess

NOT_STARTED = 2  # the exit code of a server that could not start for a reason that it knows
FAILED = 1
MAX_FAILED_STARTS = 5  # of one worker, one after the other
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a start; doubled while lives are short
_LONG_LIFE_SECONDS = 60.0
_MAX_DOUBLINGS = 30  # more than any pause needs
_STATE_SECONDS = 1.0  # between two questions
_SILENT_SECONDS = 5.0  # a worker that does not answer for so long is not ready


class Heard(Protocol):
    """Who is told, and who has the figures of all."""

    def worker_ended(self, page: str) -> None: ...
    def worker_restarted(self) -> None: ...
    async def tell(self, workers: Sequence[WorkerProcess | None]) -> dict[str, Any] | None: ...


@record(frozen=True, slots=True)
class Collapse:
    """The workers cannot go on: the exit code of the last one, and why."""

    code: int
    why: str


@record(frozen=True, slots=True)
class _Life:
    """How a worker ended; `why` is empty where it did not say."""

    code: int
    why: str
    has_started: bool
    seconds: float


class Crew:
    """Runs while `run` does."""

    def __init__(self, orders: Orders, num_workers: int, heard: Heard, first_pause: float = _FIRST_PAUSE) -> None:
        self.workers: list[WorkerProcess | None] = [None] * num_workers
        self.collapse: asyncio.Future[Collapse] = asyncio.get_running_loop().create_future()
        self.have_started = asyncio.Event()  # all of them, for the first time
        self.is_draining = False
        self._orders = orders
        self._heard = heard
        self._first_pause = first_pause
        self._num_failed = 0  # while draining: those that did not end well
        self._woken = asyncio.Event()  # the drain has begun: nobody pauses any more
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("carousel.workers")

    @property
    def num_ready(self) -> int:
        return sum(worker is not None and worker.is_ready for worker in self.workers)

    @property
    def is_ready(self) -> bool:
        """One is enough: while another one starts, calls reach this one."""
        return not self.is_draining and self.num_ready > 0

    @property
    def text(self) -> str:
        """A line for operators, with what those that are not well say of themselves."""
        state = "ready" if self.is_ready else "not ready"
        counted = f"{self.num_ready} of {len(self.workers)} workers are ready"
        texts = ["starting" if worker is None else worker.text for worker in self.workers]
        return "; ".join([state, counted, *(f"worker {n}: {text}" for n, text in enumerate(texts) if text != "ready")])

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(n), name=f"worker {n}") for n in range(len(self.workers))]
        for task in self._tasks:
            task.add_done_callback(self._note_defect)
        self._tasks.append(asyncio.create_task(self._ask_states(), name="states"))

    async def drain(self, seconds: float) -> int:
        """Lets all end. Kills those that have not after `seconds`. Returns the exit code: 0 if all have drained."""
        self.is_draining = True
        self._woken.set()
        self._tasks.pop().cancel()
        for worker in self.workers:
            if worker is not None:
                worker.drain()
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for worker in self.workers:
            if late and worker is not None:
                worker.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return FAILED if self._num_failed else 0

    async def _keep(self, number: int) -> None:
        """Starts one worker, and another one whenever it ends."""
        num_short_lives = num_failed_starts = 0
        while True:
            life = await self._live(number)
            if self.is_draining:
                self._num_failed += life.has_started and life.code != 0
                return
            num_short_lives = num_short_lives + 1 if life.seconds < _LONG_LIFE_SECONDS else 0
            num_failed_starts = 0 if life.has_started else num_failed_starts + 1
            if self._is_hopeless(life.code, num_failed_starts):
                return self._collapse(life.code, life.why or f"worker {number} does not start: {_explain(life.code)}")
            pause = min(self._first_pause * 2 ** min(num_short_lives, _MAX_DOUBLINGS) / 2, _LONGEST_PAUSE)
            self._log.error("worker is started again", worker=number, pause_seconds=pause)
            await self._pause(pause)
            if self.is_draining:
                return
            self._heard.worker_restarted()

    async def _live(self, number: int) -> _Life:
        """One worker from its start to its end."""
        started_at = time.monotonic()
        try:
            figures = partial(self._heard.tell, self.workers)
            worker = await WorkerProcess.start(self._orders, self._note_started, figures)
        except OSError as error:  # no memory, no descriptor: there may be some later
            self._log.error("worker not started", worker=number, why=error.strerror)
            return _Life(FAILED, f"worker {number} cannot be started: {error.strerror}", False, 0.0)
        self.workers[number] = worker
        self._log.info("worker started", worker=number, pid=worker.pid)
        if self.is_draining:
            worker.kill()
        code = await worker.wait()
        self.workers[number] = None
        self._heard.worker_ended(worker.page)
        self._log.info("worker ended", worker=number, pid=worker.pid, code=code, why=worker.trouble)
        return _Life(code, worker.trouble, worker.has_started, time.monotonic() - started_at)

    def _note_defect(self, task: "asyncio.Task[None]") -> None:
        """A worker that nobody keeps any more must not be missing in silence."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a worker is kept no more", task=task.get_name(), exc_info=error)
            self._collapse(FAILED, f"{task.get_name()}: a defect of the supervisor")

    def _note_started(self) -> None:
        if all(worker is not None and worker.has_started for worker in self.workers):
            self.have_started.set()

    def _is_hopeless(self, code: int, num_failed_starts: int) -> bool:
        """Nothing changes by itself what a server knows to be wrong at the first start: a setting, the bundle. Once all
        have run, one that cannot start, because the store is away, say, is no reason to end the others."""
        if self.have_started.is_set():
            return False
        return (code == NOT_STARTED and num_failed_starts > 0) or num_failed_starts >= MAX_FAILED_STARTS

    def _collapse(self, code: int, why: str) -> None:
        if not self.collapse.done():
            self.collapse.set_result(Collapse(code if code > 0 else FAILED, why))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)

    async def _ask_states(self) -> None:
        while True:
            await asyncio.gather(*(self._ask(worker) for worker in self.workers if worker is not None))
            await asyncio.sleep(_STATE_SECONDS)

    async def _ask(self, worker: WorkerProcess) -> None:
        if worker.has_started and not await worker.ask(Word.STATE, _SILENT_SECONDS):
            worker.is_ready, worker.text = False, "does not answer"


def _explain(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
