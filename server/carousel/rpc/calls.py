"""What every call has in common: a place among the open ones, a caller, one ending, one log line."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import structlog
from google.rpc import code_pb2
from grpc_status import rpc_status

from carousel.errors import CarouselError, Overloaded, ShuttingDown
from carousel.metrics import Metrics
from carousel.rpc.errors import to_status

Context: TypeAlias = grpc.aio.ServicerContext  # a name for annotations; grpc ships no types


@dataclass(slots=True)
class Call:
    """One call in progress. `facts` go into its log line: counts and codes, never text."""

    owner: str
    is_waiting: bool = False  # for the client's next message
    is_ended_by_server: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


class Calls:
    """The calls that are open."""

    def __init__(self, max_streams: int, owner_metadata: str, metrics: Metrics) -> None:
        self._max_streams = max_streams
        self._owner_metadata = owner_metadata
        self._metrics = metrics
        self._open: dict[asyncio.Task[Any], Call] = {}
        self._log = structlog.get_logger("carousel.calls")

    @contextlib.asynccontextmanager
    async def answer(self, method: str, context: Context) -> AsyncIterator[Call]:
        """Run a handler's body inside this: whatever it raises becomes the call's status, counted before it is sent."""
        call = Call(self._owner(context))
        started = time.perf_counter()
        code = "OK"
        refusal: Exception | None = None
        task = asyncio.current_task()
        assert task is not None
        self._metrics.request_started(method)
        self._open[task] = call
        try:
            if len(self._open) > self._max_streams:
                raise Overloaded(f"{self._max_streams} calls are open", limit="max_streams", retry_seconds=1.0)
            yield call
        except asyncio.CancelledError:
            if not call.is_ended_by_server:
                code = _given_up(context)
                raise
            task.uncancel()
            code, refusal = "UNAVAILABLE", ShuttingDown("the server is shutting down")
            self._note(method, refusal)
        except Exception as error:
            code, refusal = code_pb2.Code.Name(to_status(error).code), error
            self._note(method, error)
        finally:
            del self._open[task]
            seconds = time.perf_counter() - started
            self._metrics.request_done(method, code, seconds)
            self._log.info("call", method=method, code=code, seconds=round(seconds, 6), **call.facts)
        if refusal is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(refusal)))

    async def finish(self, grace_seconds: float) -> None:
        """At shutdown, when all turns have ended: calls that wait for their client end with UNAVAILABLE at once, the
        others may send what they have for so long."""
        self._end([task for task, call in self._open.items() if call.is_waiting])
        if self._open:
            await asyncio.wait(self._open, timeout=grace_seconds)
        self._end(self._open)

    def _end(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            self._open[task].is_ended_by_server = True
            task.cancel()

    def _owner(self, context: Context) -> str:
        """Empty (anonymous) unless a trusted proxy names callers in metadata."""
        if not self._owner_metadata:
            return ""
        metadata = context.invocation_metadata() or ()
        return next((str(value) for key, value in metadata if key == self._owner_metadata), "")

    def _note(self, method: str, error: Exception) -> None:
        if isinstance(error, Overloaded):
            self._metrics.refused(error.limit)
        elif isinstance(error, CarouselError):
            self._metrics.refused(error.reason.lower())
        else:
            self._log.error("unexpected error", method=method, exc_info=error)


def _given_up(context: Context) -> str:
    """Why a call that the client no longer wants has ended."""
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
