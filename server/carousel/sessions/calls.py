"""What every call has on every transport: a place among the open calls, a caller, one ending, one log line."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import structlog

from carousel.errors import CarouselError, MessageInvalid, Overloaded, ShuttingDown, StoreUnavailable
from carousel.identity.doorkeeper import Admission, Doorkeeper, Evidence
from carousel.metrics import Metrics
from carousel.quotas import Quotas
from carousel.readiness import StoreHealth
from carousel.sessions import facts
from carousel.sessions.call_ends import CallEnds
from carousel.sessions.refusals import ItemRefusals
from carousel.sessions.streams import Place, StreamBounds, Streams
from carousel.shares import OwnerLimits
from carousel.traces import UNRECORDED, read_traceparent

_LOOK_SECONDS = 0.05  # between two looks for idle calls, at shutdown
_UNREAD_SECONDS = 1.0  # a call is idle when its client has not read a message for this long
_MAKE = frozenset({"CreateSession", "ImportSession"})
_ONLY_READ = frozenset({"GetSession", "ListSessions", "GetHistory", "ExportSession", "InspectSession"})


class Writer(Protocol):
    """Where a call writes its messages: its transport."""

    async def write(self, message: Any) -> None: ...


class Context(Protocol):
    """What a transport knows about a call."""

    def peer(self) -> str: ...

    def time_remaining(self) -> float | None:
        """Returns the seconds left, if the client has set a deadline."""
        ...


class CallRefused(Exception):
    """The call has ended with `error`. Its transport must send that to the client."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Call:
    """One call in progress. Its `facts` go into its log line: counts and codes, never text."""

    __slots__ = (
        "_is_unread",
        "_is_waiting",
        "_lost",
        "_place",
        "_streams",
        "_when_written",
        "_writes_since",
        "admission",
        "ended_by",
        "evidence",
        "facts",
        "method",
        "named",
        "owner",
        "request",
        "span_attributes",
        "span_name",
        "timeline",
    )

    def __init__(
        self,
        method: str,
        request: Any,
        evidence: Evidence,
        lost: type[Exception],
        span: tuple[str, Mapping[str, str]] | None = None,
    ) -> None:
        """The transport raises `lost` when the client has gone in the middle of a message. `span` is the name and the
        attributes of the call's span, as the transport's convention has them."""
        self.method = method
        self.evidence = evidence
        self.admission: Admission | None = None  # until the call is admitted
        self._lost = lost
        self.span_name, self.span_attributes = (method, {}) if span is None else span
        self.timeline = UNRECORDED
        self.request = request  # the last message received
        self.named: Any = request  # the last one that names a session
        self.owner = ""
        self.ended_by: CarouselError | None = None  # why the server ended it, if it did
        self.facts: dict[str, Any] = {}
        self._writes_since: float | None = None
        self._when_written: Callable[[], None] | None = None
        self._is_unread = False
        self._is_waiting = False
        self._streams: Streams | None = None
        self._place: Place | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the call waits for the client's next message or an event, which may never come: it is idle."""
        return self._is_waiting

    @is_waiting.setter
    def is_waiting(self, is_waiting: bool) -> None:
        self._is_waiting = is_waiting
        if self._streams is not None and self._place is not None:
            (self._streams.rest if is_waiting else self._streams.wake)(self._place)

    def occupy(self, streams: Streams, place: Place) -> None:
        """Gives the call its place."""
        self._streams, self._place = streams, place

    async def write(self, context: Writer, message: Any) -> None:
        """Sends the message. The call is idle while its client does not read, as while its client sends nothing. Raises
        CancelledError when the server has ended the call."""
        await self.send(context.write, message)

    async def send(self, send: Callable[[Any], Awaitable[None]], content: Any) -> None:
        """Sends what is no message, such as the metadata before the first. As `write`."""
        if self.ended_by is not None:
            raise asyncio.CancelledError
        self._writes_since = time.monotonic()
        try:
            await send(content)
            self._writes_since = None
        except self._lost as error:
            raise asyncio.CancelledError from error
        finally:
            if self._is_unread and self._streams is not None and self._place is not None:
                self._is_unread = False
                self._streams.wake(self._place)
        if self.ended_by is not None:
            self._note_written()
            raise asyncio.CancelledError

    def when_written(self, act: Callable[[], None]) -> None:
        """Calls `act` once no message is on its way: nothing can follow one whose writing is cancelled. Waits no longer
        than for a client that reads."""
        self._when_written = act
        if self.is_writing:
            asyncio.get_running_loop().call_later(_UNREAD_SECONDS, self._note_written)
        else:
            self._note_written()

    def _note_written(self) -> None:
        act, self._when_written = self._when_written, None
        if act is not None:
            act()

    @property
    def is_writing(self) -> bool:
        return self._writes_since is not None

    def look(self) -> None:
        """Marks the call as idle if its client has not read for too long."""
        since = self._writes_since
        if since is None or since > time.monotonic() - _UNREAD_SECONDS or self._is_unread:
            return
        if self._streams is not None and self._place is not None:
            self._is_unread = True
            self._streams.rest(self._place)

    def leave(self) -> None:
        self._when_written = None
        if self._streams is not None and self._place is not None:
            self._streams.leave(self._place)

    @property
    def writes(self) -> bool:
        """Whether an answer to this call shows that the session store can write."""
        return self.method in _MAKE or (self.method not in _ONLY_READ and bool(getattr(self.request, "session_id", "")))


class Calls:
    """The open calls of one server."""

    def __init__(
        self,
        bounds: StreamBounds,
        doorkeeper: Doorkeeper,
        metrics: Metrics,
        store: StoreHealth,
        code_of: Callable[[Exception], str],
        ends: CallEnds | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """`code_of` returns the code under which an error is counted and logged."""
        self._code_of = code_of
        self._doorkeeper = doorkeeper
        self._metrics = metrics
        self._store = store
        self._quotas = Quotas(OwnerLimits()) if quotas is None else quotas
        self._ends = CallEnds(metrics) if ends is None else ends
        self._streams = Streams(bounds, self._look)
        self._open: dict[asyncio.Task[Any], Call] = {}
        self._is_finishing = False
        self._log = structlog.get_logger("carousel.calls")

    @contextlib.asynccontextmanager
    async def answer(
        self, call: Call, context: Context, *, is_counted: bool = True, is_readable: bool = True
    ) -> AsyncIterator[None]:
        """Runs a handler's body. Counts every error that the body raises, and raises CallRefused instead. A call with
        `is_counted` false needs no place among the streams."""
        method = call.method
        started = time.perf_counter()
        parent = read_traceparent(call.evidence.metadata)
        span = self._ends.traces.begin(call.span_name, call.span_attributes, parent, started)
        call.timeline = span.timeline
        code = "OK"
        refusal: Exception | None = None
        task = asyncio.current_task()
        assert task is not None
        self._metrics.request_started(method)
        self._open[task] = call
        try:
            self._admit(call, task, is_counted=is_counted, is_readable=is_readable)
            yield
            if call.writes:
                self._store.call_succeeded()
        except asyncio.CancelledError:
            if call.ended_by is None:
                code = _given_up(context)
                raise
            task.uncancel()
            code, refusal = self._count_refusal(method, call.ended_by), call.ended_by
            if call.is_writing:
                raise  # the client does not read a message: nothing can follow it, not even the call's error
        except Exception as error:
            code, refusal = self._count_refusal(method, error), error
        finally:
            del self._open[task]
            call.leave()
            why = facts.of_failure(call.request, context.peer(), refusal) if code != "OK" else {}
            principal = "" if call.admission is None else call.admission.principal
            told = call.facts | why
            self._ends.tell(method, context.peer(), call.named, principal, span, started, code, told)
        if refusal is not None:
            raise CallRefused(refusal)

    def admit(self, method: str, evidence: Evidence) -> None:
        """Asks whether a call may be made that does not run here, such as a health check. Counts, logs and raises the
        error that refuses it."""
        try:
            self._doorkeeper.admit(method, evidence)
        except CarouselError as error:
            code = self._count_refusal(method, error)
            self._ends.tell_refusal(method, evidence.peer, code, facts.of_failure(None, evidence.peer, error))
            raise

    def permit(self, call: Call, method: str) -> None:
        """Asks whether the caller of an open call may also make the call `method`, which is a part of it. Raises the
        refusal."""
        self._doorkeeper.admit(method, call.evidence)

    def check_again(self) -> None:
        """Ends the calls whose callers would not be admitted any more. Runs after the principals have changed."""
        for task, call in list(self._open.items()):
            if call.admission is None:
                continue
            try:
                self._doorkeeper.check_again(call.method, call.evidence, call.admission)
            except CarouselError as error:
                self._end_between_messages(task, call, error)

    def refusing_items(self, method: str, peer: str) -> ItemRefusals:
        """Returns the ItemRefusals for items that fail while their call goes on."""
        return ItemRefusals(method, peer, self._count_refusal, self._metrics)

    async def finish(self, grace_seconds: float) -> None:
        """Ends all calls at shutdown, after the last turn. Calls that wait for their client end with UNAVAILABLE at
        once. The others have `grace_seconds` to send their answers. New calls are refused."""
        self._is_finishing = True
        deadline = time.monotonic() + grace_seconds
        while self._open and (left := deadline - time.monotonic()) > 0:
            self._end_all([task for task, call in self._open.items() if call.is_waiting])
            await asyncio.wait(self._open, timeout=min(left, _LOOK_SECONDS))
        self._end_all(list(self._open))

    def _admit(self, call: Call, task: "asyncio.Task[Any]", *, is_counted: bool, is_readable: bool) -> None:
        if self._is_finishing:
            raise _shutting_down()
        call.admission = self._doorkeeper.admit(call.method, call.evidence)
        call.owner = call.admission.owner
        if call.admission.principal:
            call.facts["principal"] = call.admission.principal
        self._quotas.take_request(call.owner)
        if not is_readable:
            raise message_invalid()
        if is_counted:
            full = Overloaded("calls ran short, and this one was idle", limit="max_streams", retry_seconds=1.0)
            call.occupy(self._streams, self._streams.enter(call.owner, lambda: self._end(task, full)))

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

    def _end_between_messages(self, task: "asyncio.Task[Any]", call: Call, error: CarouselError) -> None:
        """Ends a call that may be sending."""

        def cancel() -> None:
            if asyncio.current_task() is not task:  # the task itself notices where it has written
                task.cancel()

        if call.ended_by is None:
            call.ended_by = error
            call.when_written(cancel)

    def _count_refusal(self, method: str, error: Exception, is_logged: bool = True) -> str:
        """Counts the error and returns its code. An unexpected error has its own log line, unless `is_logged` is
        false."""
        if isinstance(error, Overloaded):
            self._metrics.refused(error.limit)
        elif isinstance(error, CarouselError):
            self._metrics.refused(error.reason.lower())
        elif is_logged:
            self._log.error("unexpected error", method=method, exc_info=error)
        if isinstance(error, StoreUnavailable):
            self._store.call_failed(error)
        return self._code_of(error)


def message_invalid() -> MessageInvalid:
    return MessageInvalid("what came is no message of this method")


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down")


def _given_up(context: Context) -> str:
    """Returns the code of a call that its client gave up."""
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
