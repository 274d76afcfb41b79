"""What every call has in common: a place among the open ones, a caller, one ending, one log line."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

import grpc
import structlog
from google.rpc import code_pb2
from grpc_status import rpc_status

from carousel.errors import CarouselError, Overloaded, ShuttingDown, StoreUnavailable
from carousel.metrics import Metrics
from carousel.readiness import StoreHealth
from carousel.rpc import facts
from carousel.rpc.errors import to_status
from carousel.rpc.reading import UNREADABLE, message_invalid
from carousel.rpc.refusals import ItemRefusals
from carousel.sessions.callers import Callers
from carousel.sessions.streams import Place, StreamBounds, Streams

Context: TypeAlias = grpc.aio.ServicerContext  # a name for annotations; grpc ships no types

_LOOK_SECONDS = 0.05  # from one look at who is idle to the next, at shutdown
_UNREAD_SECONDS = 1.0  # after which a call whose message the client has not taken is idle
_MAKE = frozenset({"CreateSession", "ImportSession"})
_ONLY_READ = frozenset({"GetSession", "ListSessions", "GetHistory", "ExportSession"})


class Call:
    """One call in progress. `facts` go into its log line: counts and codes, never text."""

    __slots__ = (
        "_is_unread",
        "_is_waiting",
        "_place",
        "_streams",
        "_writes_since",
        "ended_by",
        "facts",
        "method",
        "owner",
        "request",
    )

    def __init__(self, method: str, request: Any) -> None:
        self.method = method
        self.request = request  # the last message that came
        self.owner = ""
        self.ended_by: CarouselError | None = None  # why the server ended it, if it did
        self.facts: dict[str, Any] = {}
        self._writes_since: float | None = None
        self._is_unread = False
        self._is_waiting = False
        self._streams: Streams | None = None
        self._place: Place | None = None

    @property
    def is_waiting(self) -> bool:
        """For what may never come: the client's next message, or an event. Such a call is idle."""
        return self._is_waiting

    @is_waiting.setter
    def is_waiting(self, is_waiting: bool) -> None:
        self._is_waiting = is_waiting
        if self._streams is not None and self._place is not None:
            (self._streams.rest if is_waiting else self._streams.wake)(self._place)

    def take(self, streams: Streams, place: Place) -> None:
        """It has a place from now on."""
        self._streams, self._place = streams, place

    async def write(self, context: Context, message: Any) -> None:
        """One that goes out. While its client does not read, the call is idle, as one is whose client says nothing."""
        self._writes_since = time.monotonic()
        try:
            await context.write(message)
            self._writes_since = None
        except grpc.aio.InternalError as error:  # the client has gone in the middle of it
            raise asyncio.CancelledError from error
        finally:
            if self._is_unread and self._streams is not None and self._place is not None:
                self._is_unread = False
                self._streams.wake(self._place)

    @property
    def is_writing(self) -> bool:
        return self._writes_since is not None

    def look(self) -> None:
        """Idle from now on if its client has not read for too long."""
        since = self._writes_since
        if since is None or since > time.monotonic() - _UNREAD_SECONDS or self._is_unread:
            return
        if self._streams is not None and self._place is not None:
            self._is_unread = True
            self._streams.rest(self._place)

    def leave(self) -> None:
        if self._streams is not None and self._place is not None:
            self._streams.leave(self._place)

    @property
    def writes(self) -> bool:
        """Whether its being answered shows that the session store can write."""
        return self.method in _MAKE or (self.method not in _ONLY_READ and bool(getattr(self.request, "session_id", "")))


class Calls:
    """The calls that are open."""

    def __init__(self, bounds: StreamBounds, callers: Callers, metrics: Metrics, store: StoreHealth) -> None:
        self._callers = callers
        self._metrics = metrics
        self._store = store
        self._streams = Streams(bounds, self._look)
        self._open: dict[asyncio.Task[Any], Call] = {}
        self._is_finishing = False
        self._log = structlog.get_logger("carousel.calls")

    @contextlib.asynccontextmanager
    async def answer(
        self, method: str, context: Context, request: Any = None, *, is_counted: bool = True
    ) -> AsyncIterator[Call]:
        """Run a handler's body inside this: whatever it raises becomes the call's status, counted before it is sent.
        `request` is its message, where it has one; a call that is not counted needs no place among the streams."""
        call = Call(method, request)
        started = time.perf_counter()
        code = "OK"
        refusal: Exception | None = None
        task = asyncio.current_task()
        assert task is not None
        self._metrics.request_started(method)
        self._open[task] = call
        try:
            self._admit(call, task, context, is_counted)
            yield call
            if call.writes:
                self._store.call_succeeded()
        except asyncio.CancelledError:
            if call.ended_by is None:
                code = _given_up(context)
                raise
            task.uncancel()
            code, refusal = self._count_refusal(method, call.ended_by), call.ended_by
            if call.is_writing:
                raise  # behind a message that the client does not take nothing can be sent, not even how the call ended
        except Exception as error:
            code, refusal = self._count_refusal(method, error), error
        finally:
            del self._open[task]
            call.leave()
            seconds = time.perf_counter() - started
            self._metrics.request_done(method, code, seconds)
            why = facts.of_failure(call.request, context.peer(), refusal) if code != "OK" else {}
            self._log.info("call", method=method, code=code, seconds=round(seconds, 6), **call.facts, **why)
        if refusal is not None:
            await context.abort_with_status(rpc_status.to_status(to_status(refusal)))

    def refusing_items(self, method: str, context: Context) -> ItemRefusals:
        """For parts of a call that fail while it goes on."""
        return ItemRefusals(method, context.peer(), self._count_refusal, self._metrics)

    async def finish(self, grace_seconds: float) -> None:
        """At shutdown, when all turns have ended: calls that wait for their client end with UNAVAILABLE at once, the
        others may send what they have for so long, and end when they have; new ones are refused."""
        self._is_finishing = True
        deadline = time.monotonic() + grace_seconds
        while self._open and (left := deadline - time.monotonic()) > 0:
            self._end_all([task for task, call in self._open.items() if call.is_waiting])
            await asyncio.wait(self._open, timeout=min(left, _LOOK_SECONDS))
        self._end_all(list(self._open))

    def _admit(self, call: Call, task: "asyncio.Task[Any]", context: Context, is_counted: bool) -> None:
        if self._is_finishing:
            raise _shutting_down()
        call.owner = self._callers.identify(context.invocation_metadata())
        if call.request is UNREADABLE:
            raise message_invalid()
        if is_counted:
            full = Overloaded("calls ran short, and this one was idle", limit="max_streams", retry_seconds=1.0)
            call.take(self._streams, self._streams.enter(call.owner, lambda: self._end(task, full)))

    def _look(self) -> None:
        for call in self._open.values():
            call.look()

    def _end_all(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            self._end(task, _shutting_down())

    def _end(self, task: "asyncio.Task[Any]", error: CarouselError) -> None:
        call = self._open.get(task)
        if call is not None and call.ended_by is None:
            call.ended_by = error
            task.cancel()

    def _count_refusal(self, method: str, error: Exception, is_logged: bool = True) -> str:
        """Its code. One that is unexpected has a log line of its own, if any is wanted."""
        if isinstance(error, Overloaded):
            self._metrics.refused(error.limit)
        elif isinstance(error, CarouselError):
            self._metrics.refused(error.reason.lower())
        elif is_logged:
            self._log.error("unexpected error", method=method, exc_info=error)
        if isinstance(error, StoreUnavailable):
            self._store.call_failed(error)
        return str(code_pb2.Code.Name(to_status(error).code))


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down")


def _given_up(context: Context) -> str:
    """Why a call that the client no longer wants has ended."""
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
