"""A thread that writes to SQLite: what waits is committed together, so that many clients share one fsync.

It knows nothing of what is written.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from carousel.errors import CarouselError, StoreUnavailable
from carousel.state.store import Repeated

Result = TypeVar("Result")
_MAX_BATCH = 256  # told to the event loop at once
_REFUSALS = (CarouselError, Repeated)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    then: Callable[[Any], None]
    done: "asyncio.Future[Any]"


class GroupCommit:
    """Owns the connection that writes."""

    def __init__(
        self, connection: sqlite3.Connection, settled: Callable[[bool], None], doubted: Callable[[], None]
    ) -> None:
        """`settled` is called in the thread after each transaction with whether it was committed, `doubted` in the loop
        after one that was not."""
        self._connection = connection
        self._settled = settled
        self._doubted = doubted
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[sqlite3.Connection], Result], then: Callable[[Result], None]) -> Result:
        """`work` runs in a transaction with others and may raise a CarouselError or Repeated, having changed nothing;
        once all is on disk `then` is called in the loop, in the order of the writes and whether or not somebody still
        waits."""
        if self._is_closed:
            raise StoreUnavailable("the session store is closed")
        done: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put(_Job(work, then, done))
        result: Result = await done
        return result

    async def close(self) -> None:
        """After everything that was handed in is written."""
        self._is_closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        with contextlib.suppress(sqlite3.Error):  # the log is read at the next start as well
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            waiting = [self._jobs.get()]
            while len(waiting) < _MAX_BATCH and not self._jobs.empty():
                waiting.append(self._jobs.get())
            jobs = [job for job in waiting if job is not None]
            is_open = len(jobs) == len(waiting)
            outcomes = self._commit(jobs)
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
                self._loop.call_soon_threadsafe(self._deliver, jobs, outcomes)

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt(job, self._connection) for job in jobs]
            self._connection.execute("COMMIT")
        except Exception as error:  # whatever it is, the thread must live and nobody may wait for ever
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            self._settled(False)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                self._begin_log_anew()
            return [_unavailable(error) for _ in jobs]
        self._settled(True)
        return outcomes

    def _begin_log_anew(self) -> None:
        """On a full disk: the room that the log has already is enough to end what is due."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)")

    def _deliver(self, jobs: list[_Job], outcomes: list[Any]) -> None:
        if any(isinstance(outcome, StoreUnavailable) for outcome in outcomes):
            self._doubted()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, _REFUSALS):
                if not job.done.done():
                    job.done.set_exception(outcome)
                continue
            try:
                job.then(outcome)
            except Exception as error:  # it is on disk all the same, and others wait
                self._loop.call_exception_handler({"message": "a finished write was not told", "exception": error})
            if not job.done.done():
                job.done.set_result(outcome)


def _attempt(job: _Job, connection: sqlite3.Connection) -> Any:
    try:
        return job.work(connection)
    except _REFUSALS as error:
        return error


def _unavailable(error: Exception) -> StoreUnavailable:
    refusal = StoreUnavailable(f"the session store cannot write: {error}")
    refusal.__cause__ = error
    return refusal
