"""Every call ends once, with one log line and one count, whatever ends it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from google.rpc import code_pb2, status_pb2
from prometheus_client import CollectorRegistry
from tests.server.rpc.desk import FakeInspection, FakeOperations, FakeSessions

from carousel.errors import (
    CarouselError,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    SessionNotFound,
    ShuttingDown,
    StoreUnavailable,
    Unauthenticated,
)
from carousel.identity.doorkeeper import Admission, Doorkeeper, Evidence
from carousel.metrics import Metrics
from carousel.readiness import StoreHealth
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.reading import UNREADABLE
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions import calls
from carousel.sessions.calls import Calls
from carousel.sessions.checks import Limits
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2


class Aborted(Exception):
    """What a transport raises in a handler that aborts."""


class FakeContext:
    """Keeps the status that a call was ended with."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata
        self.statuses: list[Any] = []
        self.remaining_seconds: float | None = None

    def time_remaining(self) -> float | None:
        return self.remaining_seconds

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    async def abort_with_status(self, status: Any) -> None:
        self.statuses.append(status)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0  # otherwise its own time limits would cancel the transport that sends the status
        raise Aborted

    @property
    def code(self) -> str:
        (status,) = self.statuses
        packed = dict(status.trailing_metadata)["grpc-status-details-bin"]
        name: str = code_pb2.Code.Name(status_pb2.Status.FromString(packed).code)
        return name


class Desk:
    def __init__(self, max_streams: int = 10, owner_metadata: str = "", doorkeeper: Doorkeeper | None = None) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.health = StoreHealth(metrics.store_is_up)
        self.open = Calls(
            StreamBounds(max_streams), doorkeeper or Doorkeeper(owner_metadata), metrics, self.health, code_of
        )
        self.calls = RpcCalls(self.open)

    def count(self, code: str) -> float:
        return self.registry.get_sample_value("carousel_requests_total", {"method": "Do", "code": code}) or 0

    @property
    def num_running(self) -> float:
        return self.registry.get_sample_value("carousel_running_requests", {"method": "Do"}) or 0


async def test_a_call_that_returns_is_ok() -> None:
    """The call has one count, one line with its facts, and is no longer open."""
    desk = Desk()
    with structlog.testing.capture_logs() as lines:
        async with desk.calls.answer("Do", FakeContext()) as call:
            assert desk.num_running == 1
            call.facts["num_input_tokens"] = 3
    assert (desk.count("OK"), desk.num_running) == (1, 0)
    (line,) = lines
    assert (line["event"], line["method"], line["code"], line["num_input_tokens"]) == ("call", "Do", "OK", 3)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelFailed("no"), "INTERNAL"),
        (Overloaded("no", limit="x", retry_seconds=1), "RESOURCE_EXHAUSTED"),
        (RuntimeError("swordfish"), "INTERNAL"),
    ],
)
async def test_an_error_becomes_the_status(error: Exception, code: str) -> None:
    """Whatever the body raises is the call's ending, counted under its code."""
    desk, context = Desk(), FakeContext()
    with structlog.testing.capture_logs() as lines, pytest.raises(Aborted):
        async with desk.calls.answer("Do", context):
            raise error
    assert context.code == code
    assert (desk.count(code), desk.num_running) == (1, 0)
    unexpected = [line for line in lines if line["event"] == "unexpected error"]
    assert len(unexpected) == isinstance(error, RuntimeError)


@pytest.mark.parametrize(
    ("remaining_seconds", "code"), [(None, "CANCELLED"), (3.0, "CANCELLED"), (-0.01, "DEADLINE_EXCEEDED")]
)
async def test_a_cancelled_call_is_cancelled(remaining_seconds: float | None, code: str) -> None:
    """A client that leaves, or its deadline, is no error of ours: no status is sent, and the task ends as cancelled."""
    desk, context = Desk(), FakeContext()
    context.remaining_seconds = remaining_seconds

    async def handle() -> None:
        async with desk.calls.answer("Do", context):
            await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert context.statuses == []
    assert (desk.count(code), desk.num_running) == (1, 0)


async def test_calls_beyond_the_bound_are_refused() -> None:
    """A call beyond the bound ends at once and then no longer counts."""
    desk = Desk(max_streams=1)
    async with desk.calls.answer("Do", FakeContext()):
        context = FakeContext()

        async def handle() -> None:
            async with desk.calls.answer("Do", context):
                pytest.fail("it was one too many")

        with pytest.raises(Aborted):
            await asyncio.create_task(handle())
        assert context.code == "RESOURCE_EXHAUSTED"
    async with desk.calls.answer("Do", FakeContext()):
        pass
    assert (desk.count("OK"), desk.count("RESOURCE_EXHAUSTED")) == (2, 1)


async def test_finish_ends_waiting_calls_at_once_and_lets_the_others_send() -> None:
    """A call that waits for its client gets UNAVAILABLE; one that is sending goes to its end, unless it is too slow."""
    desk = Desk()
    contexts = {name: FakeContext() for name in ("waiting", "sending", "stuck")}
    may_send = asyncio.Event()

    async def handle(name: str) -> None:
        async with desk.calls.answer("Do", contexts[name]) as call:
            call.is_waiting = name == "waiting"
            await (may_send.wait() if name == "sending" else asyncio.Event().wait())

    tasks = {name: asyncio.create_task(handle(name)) for name in contexts}
    await asyncio.sleep(0)
    finishing = asyncio.create_task(desk.open.finish(0.05))
    with pytest.raises(Aborted):
        await tasks["waiting"]
    assert not finishing.done()
    may_send.set()
    await tasks["sending"]
    with pytest.raises(Aborted):
        await tasks["stuck"]
    await finishing
    assert (contexts["waiting"].code, contexts["stuck"].code) == ("UNAVAILABLE", "UNAVAILABLE")
    assert contexts["sending"].statuses == []
    assert (desk.count("OK"), desk.count("UNAVAILABLE"), desk.num_running) == (1, 2, 0)


async def test_a_call_that_comes_to_wait_while_others_finish_ends_then() -> None:
    """Such a call ends at once, and not at the end of the grace."""
    desk = Desk()
    is_answered = asyncio.Event()

    async def handle() -> None:
        async with desk.calls.answer("Predict", FakeContext()) as call:
            await is_answered.wait()
            call.is_waiting = True
            await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    finishing = asyncio.create_task(desk.open.finish(15))
    await asyncio.sleep(0)
    is_answered.set()
    async with asyncio.timeout(5):
        await finishing
        with pytest.raises(Aborted):
            await task


async def refuse(
    desk: Desk, error: Exception | None, request: Any = None, *metadata: tuple[str, str]
) -> dict[str, Any]:
    """Makes a call that must be refused, by `error` or before the body. Returns its log line, with the status's
    code."""
    context = FakeContext(*metadata)

    async def handle() -> None:
        async with desk.calls.answer("Do", context, request):
            if error is None:
                pytest.fail("it must be refused")
            raise error

    with structlog.testing.capture_logs() as lines, pytest.raises(Aborted):
        await handle()
    (line,) = (line for line in lines if line["event"] == "call")
    assert line["code"] == context.code
    return dict(line)


async def test_the_owner_is_who_the_proxy_says() -> None:
    """A call knows its owner; one that names no owner is UNAUTHENTICATED and takes no place."""
    desk = Desk(max_streams=1, owner_metadata="x-owner")
    line = await refuse(desk, None)
    assert (line["code"], line["reason"]) == ("UNAUTHENTICATED", Unauthenticated.reason)
    async with desk.calls.answer("Do", FakeContext(("x-owner", "ann"))) as call:
        assert call.owner == "ann"


async def test_a_message_that_cannot_be_read_is_refused() -> None:
    """The handler's body never sees it."""
    line = await refuse(Desk(), None, UNREADABLE)
    assert (line["code"], line["reason"]) == ("INVALID_ARGUMENT", "MESSAGE_INVALID")


async def test_a_failed_call_says_why_for_whom_and_where() -> None:
    """The line has reason, field, hash of the session, request id and peer, and nothing of the error's text."""
    request = wire.ScoreRequest(session_id="swordfish", request_id="r")
    line = await refuse(Desk(), InvalidRequest("g", "swordfish"), request)
    assert (line["reason"], line["field"], line["request_id"]) == ("INVALID_REQUEST", "g", "r")
    assert (line["peer"], len(line["session"])) == ("ipv4:127.0.0.1:5", 16)
    assert "swordfish" not in str(line)


async def test_a_call_that_is_ok_names_no_session() -> None:
    """Only failures need to be found again, so the line has no session."""
    with structlog.testing.capture_logs() as lines:
        async with Desk().calls.answer("Do", FakeContext(), wire.ScoreRequest(session_id="s", request_id="r")):
            pass
    assert lines[0].keys() == {"event", "method", "code", "seconds", "log_level"}


async def test_the_last_message_of_a_stream_is_the_one_that_failed() -> None:
    """The line has its request id."""
    desk = Desk()

    async def handle() -> None:
        async with desk.calls.answer("Predict", FakeContext()) as call:
            for name in ("one", "two"):
                call.request = wire.PredictRequest(request_id=name)
            raise SessionNotFound("no")

    with structlog.testing.capture_logs() as lines, pytest.raises(Aborted):
        await handle()
    assert lines[0]["request_id"] == "two"


async def until_idle(desk: Desk, context: FakeContext, entered: asyncio.Event) -> None:
    async with desk.calls.answer("Do", context) as call:
        call.is_waiting = True
        entered.set()
        await asyncio.Event().wait()


async def test_an_idle_call_gives_way_to_a_newcomer() -> None:
    """The idle call's client gets RESOURCE_EXHAUSTED and the limit, and the newcomer is served at once."""
    desk = Desk(max_streams=1, owner_metadata="x-owner")
    idle, entered = FakeContext(("x-owner", "ann")), asyncio.Event()
    task = asyncio.create_task(until_idle(desk, idle, entered))
    await entered.wait()
    async with desk.calls.answer("Do", FakeContext(("x-owner", "bob"))):
        with pytest.raises(Aborted):
            await task
        assert idle.code == "RESOURCE_EXHAUSTED"
        line = await asyncio.create_task(refuse(desk, None, None, ("x-owner", "ann")))
        assert line["limit"] == "max_streams"
    assert desk.registry.get_sample_value("carousel_refusals_total", {"reason": "max_streams"}) == 2
    assert repr(desk.open._streams) == "Streams(0 of 1 taken)"


async def test_a_call_is_ended_for_one_reason() -> None:
    """The first reason holds: what comes before the call has heard of it changes nothing."""
    desk, context, entered = Desk(), FakeContext(), asyncio.Event()
    task = asyncio.create_task(until_idle(desk, context, entered))
    await entered.wait()
    desk.open._end(task, Overloaded("no", limit="max_streams", retry_seconds=1))
    desk.open._end(task, ShuttingDown("no"))
    with pytest.raises(Aborted):
        await task
    assert context.code == "RESOURCE_EXHAUSTED"


class GatedContext(FakeContext):
    """Its client reads when `may_read` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read, self.is_writing = asyncio.Event(), asyncio.Event()
        self.written: list[Any] = []

    async def write(self, message: Any) -> None:
        self.is_writing.set()
        await self.may_read.wait()
        self.written.append(message)

    async def send_initial_metadata(self, metadata: Any) -> None:
        await self.write("open")


class ChangingDoorkeeper(Doorkeeper):
    """Admits everybody, until nobody any more."""

    def check_again(self, call: str, evidence: Evidence, admission: Admission) -> None:
        raise Unauthenticated("gone")


async def write_all(desk: Desk, context: GatedContext) -> None:
    """The handler writes."""
    async with desk.calls.answer("Do", context) as call:
        for number in range(9):
            await call.write(context, number)


async def write_beside(desk: Desk, context: GatedContext) -> None:
    """A task writes, and the handler waits for its client."""
    async with desk.calls.answer("Do", context) as call:

        async def write() -> None:
            for number in range(9):
                await call.write(context, number)

        writing = asyncio.create_task(write())
        try:
            await asyncio.Event().wait()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


async def test_a_watch_that_is_being_opened_is_ended_after_that() -> None:
    """A client may know that its call is open before gRPC tells the server so. No status can be sent meanwhile."""
    desk, context = Desk(doorkeeper=ChangingDoorkeeper()), GatedContext()
    parts: Any = (FakeSessions(Limits.of(Settings())), FakeOperations(), FakeInspection(), desk.calls)
    servicer = SessionsServicer(*parts)
    task = asyncio.ensure_future(servicer.WatchSessions(sessions_pb2.WatchSessionsRequest(), context))
    await context.is_writing.wait()
    desk.open.check_again()
    await asyncio.sleep(0)
    assert not task.done()
    context.may_read.set()
    with pytest.raises(Aborted):
        await task
    assert (context.code, context.written) == ("UNAUTHENTICATED", ["open"])


@pytest.mark.parametrize("handle", [write_all, write_beside])
async def test_a_call_that_is_sending_is_ended_after_the_message(
    handle: Callable[[Desk, GatedContext], Awaitable[None]],
) -> None:
    """Its client hears why: no status can follow a message whose sending was broken off."""
    desk, context = Desk(doorkeeper=ChangingDoorkeeper()), GatedContext()
    task = asyncio.ensure_future(handle(desk, context))
    await context.is_writing.wait()
    desk.open.check_again()
    desk.open.check_again()  # once more changes nothing
    await asyncio.sleep(0)
    assert not task.done()
    context.may_read.set()
    with pytest.raises(Aborted):
        await task
    assert (context.code, context.written) == ("UNAUTHENTICATED", [0])


@pytest.mark.parametrize("handle", [write_all, write_beside])
async def test_a_call_whose_client_does_not_read_is_ended_soon(
    handle: Callable[[Desk, GatedContext], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a status."""
    monkeypatch.setattr(calls, "_UNREAD_SECONDS", 0.01)
    desk, context = Desk(doorkeeper=ChangingDoorkeeper()), GatedContext()
    task = asyncio.ensure_future(handle(desk, context))
    await context.is_writing.wait()
    desk.open.check_again()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (context.statuses, desk.count("UNAUTHENTICATED")) == ([], 1)


async def test_what_is_not_counted_needs_no_place() -> None:
    """Metadata calls are served when all places are taken, and take no place."""
    desk = Desk(max_streams=1)

    async def ask(is_counted: bool, *beside: bool) -> None:
        async with desk.calls.answer("Do", FakeContext(), is_counted=is_counted):
            if beside:
                await asyncio.create_task(ask(*beside))

    await ask(False, True, False)
    assert (desk.count("OK"), desk.count("RESOURCE_EXHAUSTED")) == (3, 0)
    with pytest.raises(Aborted):
        await ask(True, True)


async def test_after_the_end_calls_are_refused() -> None:
    """A later watch would never end."""
    desk = Desk()
    await desk.open.finish(0)
    line = await refuse(desk, None)
    assert (line["code"], line["reason"]) == ("UNAVAILABLE", "SHUTTING_DOWN")


@pytest.mark.parametrize(
    ("method", "request_message", "is_evidence"),
    [
        ("Generate", wire.GenerateRequest(session_id="s"), True),
        ("CreateSession", sessions_pb2.CreateSessionRequest(), True),
        ("ImportSession", sessions_pb2.ImportSessionRequest(), True),
        ("Generate", wire.GenerateRequest(), False),
        ("GetSession", sessions_pb2.GetSessionRequest(session_id="s"), False),
        ("GetModel", wire.GetModelRequest(), False),
    ],
)
async def test_calls_tell_whether_the_store_answers(method: str, request_message: Any, is_evidence: bool) -> None:
    """Three calls that failed for it show trouble; a call that wrote ends it, and one that did not changes nothing."""
    desk = Desk()
    for _ in range(3):
        assert desk.health.is_up
        assert (await refuse(desk, StoreUnavailable("no")))["code"] == "UNAVAILABLE"
    assert not desk.health.is_up
    async with desk.calls.answer(method, FakeContext(), request_message):
        pass
    assert desk.health.is_up == is_evidence


async def test_other_failures_say_nothing_of_the_store() -> None:
    """However many they are, the store counts as answering."""
    desk = Desk()
    errors: list[CarouselError] = [ModelFailed("no"), SessionNotFound("no")] * 3
    for error in errors:
        await refuse(desk, error)
    assert desk.health.is_up
