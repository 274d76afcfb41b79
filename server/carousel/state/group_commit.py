"""A thread that writes to SQLite. It commits all waiting writes together, so that many clients share one fsync.

It does not know what the writes mean.
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
_MAX_BATCH = 256  # reported to the event loop at once
_REFUSALS = (CarouselError, Repeated)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    then: Callable[[Any], None]
    done: "asyncio.Future[Any]"


class GroupCommit:
    """The owner of the connection that writes."""

    def __init__(
        self, connection: sqlite3.Connection, settled: Callable[[bool], None], doubted: Callable[[], None]
    ) -> None:
        """After each transaction the thread calls `settled` with whether it was committed. After a failed one the loop
        calls `doubted`."""
        self._connection = connection
        self._settled = settled
        self._doubted = doubted
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Callable[[sqlite3.Connection], Result], then: Callable[[Result], None]) -> Result:
        """`work` runs in a transaction with others. It may raise a CarouselError or Repeated if it has changed nothing.
        Once all is on disk, the loop calls `then`, in the order of the writes, even when no caller waits any more."""
        if self._is_closed:
            raise StoreUnavailable("the session store is closed")
        done: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put(_Job(work, then, done))
        result: Result = await done
        return result

    async def close(self) -> None:
        """Closes the connection after all queued writes."""
        self._is_closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        with contextlib.suppress(sqlite3.Error):  # the next start reads the log as well
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
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it all callers
                self._loop.call_soon_threadsafe(self._deliver, jobs, outcomes)

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt(job, self._connection) for job in jobs]
            self._connection.execute("COMMIT")
        except Exception as error:  # any error: the thread must go on, and no caller may hang
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            self._settled(False)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                self._restart_log()
            return [_unavailable(error) for _ in jobs]
        self._settled(True)
        return outcomes

    def _restart_log(self) -> None:
        """For a full disk: the log's existing space is enough to end due sessions."""
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
            except Exception as error:  # the data is on disk all the same, and other callers wait
                self._loop.call_exception_handler({"message": "a finished write was not reported", "exception": error})
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
