"""Every call ends once, with one line of log and one count, whoever ends it."""

import asyncio
from typing import Any

import pytest
import structlog
from google.rpc import code_pb2, status_pb2
from prometheus_client import CollectorRegistry

from carousel.errors import ModelFailed, Overloaded
from carousel.metrics import Metrics
from carousel.rpc.calls import Calls


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

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    async def abort_with_status(self, status: Any) -> None:
        self.statuses.append(status)
        raise Aborted

    @property
    def code(self) -> str:
        (status,) = self.statuses
        packed = dict(status.trailing_metadata)["grpc-status-details-bin"]
        return code_pb2.Code.Name(status_pb2.Status.FromString(packed).code)


class Desk:
    def __init__(self, max_streams: int = 10, owner_metadata: str = "") -> None:
        self.registry = CollectorRegistry()
        self.calls = Calls(max_streams, owner_metadata, Metrics(self.registry))

    def count(self, code: str) -> float:
        return self.registry.get_sample_value("carousel_requests_total", {"method": "Do", "code": code}) or 0

    @property
    def num_running(self) -> float:
        return self.registry.get_sample_value("carousel_running_requests", {"method": "Do"}) or 0


async def test_a_call_that_returns_is_ok() -> None:
    """One count, one line with its facts, nothing open."""
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
    """The client's going, or its deadline, is no error of ours: no status is sent, the task ends as cancelled."""
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
    """The one too many ends at once, and counts no longer when it has."""
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
    """A call that waits for its client gets UNAVAILABLE; one that is sending goes to its end; one too slow does not."""
    desk = Desk()
    contexts = {name: FakeContext() for name in ("waiting", "sending", "stuck")}
    may_send = asyncio.Event()

    async def handle(name: str) -> None:
        async with desk.calls.answer("Do", contexts[name]) as call:
            call.is_waiting = name == "waiting"
            await (may_send.wait() if name == "sending" else asyncio.Event().wait())

    tasks = {name: asyncio.create_task(handle(name)) for name in contexts}
    await asyncio.sleep(0)
    finishing = asyncio.create_task(desk.calls.finish(0.05))
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


@pytest.mark.parametrize(
    ("key", "metadata", "owner"),
    [
        ("", (("x-owner", "ann"),), ""),
        ("x-owner", (("x-owner", "ann"),), "ann"),
        ("x-owner", (("other", "ann"),), ""),
        ("x-owner", (), ""),
    ],
)
async def test_the_owner_is_who_the_proxy_says(key: str, metadata: tuple[tuple[str, str], ...], owner: str) -> None:
    """Only the configured key names the caller; without it everybody is anonymous."""
    async with Desk(owner_metadata=key).calls.answer("Do", FakeContext(*metadata)) as call:
        assert call.owner == owner
