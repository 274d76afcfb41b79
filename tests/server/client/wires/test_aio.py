"""Cancelled and abandoned asyncio tasks end calls and turns, and leave nothing behind."""

import asyncio
import contextlib
import gc
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.server.client.running.aio import WIRES
from tests.server.fake_service import HANG, WAIT, FakeService, Mishap

from carousel.client import AsyncClient, ServerError
from carousel.client.core import calls
from carousel.client.core.calls import Call
from carousel.client.core.connection import Connection
from carousel.client.wires.aio import GrpcWire, WireOptions


@pytest.fixture(params=WIRES, ids=str)
def of_wire(request: pytest.FixtureRequest) -> WireOptions:
    options: WireOptions = request.param
    return options


async def _cancel(reading: Coroutine[Any, Any, Any], when: asyncio.Event | None = None) -> None:
    reader = asyncio.create_task(reading)
    if when is None:
        await asyncio.sleep(0)
    else:
        await when.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def _cancel_while_waiting(asking: Coroutine[Any, Any, Any], service: FakeService) -> None:
    asked = asyncio.create_task(asking)
    await asyncio.to_thread(service.is_waiting.wait, 10)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_cancelled_reader_cancels_its_call(fake: tuple[str, FakeService]) -> None:
    """The server stops working on it."""
    address, service = fake
    async with AsyncClient(address) as client:
        stream = client.generate(HANG)
        assert (await anext(stream)).text == "h"
        await _cancel(anext(stream))
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)


async def test_a_cancelled_prediction_ends_its_stream(fake: tuple[str, FakeService], of_wire: WireOptions) -> None:
    """The requesting task is cancelled, and so is the call."""
    address, service = fake
    async with AsyncClient(address, **of_wire) as client:
        async with client.predictor() as predict:
            await predict(HANG)
            await _cancel_while_waiting(predict(WAIT), service)
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)


async def test_a_line_that_is_cancelled_is_over(fake: tuple[str, FakeService], of_wire: WireOptions) -> None:
    """A later request gets CANCELLED, and its task is not cancelled."""
    address, service = fake
    wire = GrpcWire(Connection(address), **of_wire)
    line = wire.line(calls.predict(""), {})
    request = calls.predict_request(WAIT, "", "", {})
    await _cancel_while_waiting(line.exchange(request), service)
    assert line.is_over
    for _ in range(2):
        with pytest.raises(ServerError, match="cancelled"):
            await line.exchange(request)
    await line.end(is_orderly=True)
    await wire.close()


async def test_a_reader_that_is_cancelled_gives_its_turn_up(fake: tuple[str, FakeService]) -> None:
    """The reader waits for an answer: it is unknown whether the turn was applied until the next answer."""
    async with AsyncClient(fake[0]) as client, client.session() as session:
        stream = session.generate(HANG)
        await anext(stream)
        await _cancel(anext(stream))
        assert session.position is None
        assert (await session.get()).position == session.position == 0
        fake[1].is_cancelled.set()
        del stream


async def test_a_reader_that_is_cancelled_before_a_repeat_gives_its_turn_up(fake: tuple[str, FakeService]) -> None:
    """The reader waits before a retry."""
    is_resting = asyncio.Event()

    async def rest(seconds: float) -> None:
        is_resting.set()
        await asyncio.Event().wait()

    async with AsyncClient(fake[0], sleep=rest) as client, client.session() as session:
        fake[1].mishaps = [Mishap()]
        stream = session.generate("a")
        await _cancel(anext(stream), is_resting)
        assert (await session.get()).position == session.position == 0
        del stream


async def test_a_cancelled_question_is_not_left_on_its_stream(
    fake: tuple[str, FakeService], of_wire: WireOptions
) -> None:
    """The turn no longer counts, and it is unknown whether it was applied until the next answer."""
    address, service = fake
    async with AsyncClient(address, **of_wire) as client, client.session() as session, session.predictor() as predict:
        await predict("a", k=1)
        await _cancel_while_waiting(predict(WAIT), service)
        assert session.position is None
        assert (await session.get()).position == session.position == 1
        service.is_cancelled.set()


async def test_a_cancelled_question_leaves_no_expectation(fake: tuple[str, FakeService], of_wire: WireOptions) -> None:
    """It is unknown whether the request was applied; the next one goes on a new stream."""
    address, service = fake
    async with AsyncClient(address, **of_wire) as client, client.session() as session, session.predictor() as predict:
        await predict("a", k=1)
        await _cancel_while_waiting(predict(WAIT), service)
        service.is_cancelled.set()
        assert (await predict("b", k=1)).position in (2, 6)


async def test_no_reader_is_left_behind(fake: tuple[str, FakeService]) -> None:
    """However the stream ends, its reading task has ended too."""

    async def ask_and_raise(asker: Any) -> None:
        async with asker as predict:
            await predict("a")
            raise KeyError

    async with AsyncClient(fake[0], shares_streams=False) as client, client.session() as session:
        before = asyncio.all_tasks()
        for start in (client.predictor, session.predictor):
            with pytest.raises(KeyError):
                await ask_and_raise(start())
            assert [repr(task) for task in asyncio.all_tasks() - before if "_read" in repr(task)] == []


@pytest.mark.parametrize("reason", ["single", "metadata", "large"])
async def test_a_line_of_its_own_that_is_dropped_is_cancelled(fake: tuple[str, FakeService], reason: str) -> None:
    """The line was dropped without an end: neither its call nor its reading task outlives it."""
    address, service = fake
    metadata = [("mark", "m")] if reason == "metadata" else []

    async def ask_and_forget() -> None:
        session = client.open_session("mine", position=0)
        predict = session.predictor(metadata=metadata)
        await predict(HANG)
        await predict("a" * (20_000 if reason == "large" else 1))
        await predict(HANG)

    async with AsyncClient(address, shares_streams=reason != "single") as client:
        await client.create_session("mine")
        await ask_and_forget()
        gc.collect()
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)
        readers = [task for task in asyncio.all_tasks() if "coro=<read()" in repr(task)]
        await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), 5)


@pytest.mark.parametrize("has_session", [False, True])
async def test_a_failure_that_nobody_asks_about_is_no_news(
    fake: tuple[str, FakeService], of_wire: WireOptions, has_session: bool
) -> None:
    """An abandoned stream reads on, and its end is not logged as an exception that was never retrieved."""
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context))

    async def leave_alone() -> None:
        async with AsyncClient(fake[0], **of_wire) as client, client.session() as session:
            predict = session.predictor() if has_session else client.predictor()
            await predict("a")
        while others := asyncio.all_tasks() - {asyncio.current_task()}:  # the reader ends too
            await asyncio.wait(others)

    await leave_alone()
    gc.collect()
    assert logged == []


async def test_a_closed_client_fails_a_question_that_stays_unasked(
    fake: tuple[str, FakeService], of_wire: WireOptions
) -> None:
    """The failure is kept for a later request."""
    client = AsyncClient(fake[0], **of_wire)
    predict = client.predictor()
    await client.close()
    with pytest.raises(ServerError) as caught:
        await predict("a")
    assert caught.value.code == "CANCELLED"


class _Open:
    """A call that stays open until it is ended; `events` record how. Nothing can be written on it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._is_over = asyncio.Event()

    async def read(self) -> Any:
        try:
            await self._is_over.wait()
        finally:
            self.events.append("read")
        return grpc.aio.EOF

    async def write(self, request: Any) -> None:
        raise grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "no")

    async def done_writing(self) -> None:
        self.events.append("done writing")
        self._is_over.set()

    def cancel(self) -> None:
        self.events.append("cancelled")
        self._is_over.set()


class _Held(_Open):
    """The call answers `num_written` requests, then none. As in grpc.aio, a call that is cancelled before it has begun
    never returns from a write; later, its writer and its reader behave as cancelled."""

    def __init__(self, num_written: int) -> None:
        super().__init__()
        self._has_begun = num_written > 0
        self._num_left = num_written
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    async def read(self) -> Any:
        if (answer := await self._answers.get()) is None:
            raise asyncio.CancelledError
        return answer

    async def write(self, request: Any) -> None:
        if self._num_left:
            self._num_left -= 1
            self._answers.put_nowait("answer")
            return
        await (self._is_over if self._has_begun else asyncio.Event()).wait()
        raise asyncio.CancelledError

    def cancel(self) -> None:
        super().cancel()
        self._answers.put_nowait(None)


async def _line_on(under: _Open) -> Any:
    call: Call[Any] = Call(lambda channel: SimpleNamespace(Ask=lambda **_: under), "Ask", None, lambda answer: answer)
    line = GrpcWire(Connection("here:1"), shares_streams=False, stubs=[call.stub]).line(call, {})
    await asyncio.sleep(0)  # it reads
    return line


async def test_a_line_that_fails_is_ended() -> None:
    """The request cannot be written: the call is cancelled, and its reader has ended."""
    under = _Open()
    line = await _line_on(under)
    with pytest.raises(ServerError, match="no"):
        await line.exchange("question")
    assert under.events == ["cancelled", "read"]


async def test_a_line_ends_in_order() -> None:
    """The server's end is read before the call is cancelled, which changes nothing then."""
    under = _Open()
    await (await _line_on(under)).end(is_orderly=True)
    assert under.events == ["done writing", "read", "cancelled"]


async def test_a_line_is_dropped_without_waiting() -> None:
    """The call is cancelled at once, the reader soon after."""
    under = _Open()
    (await _line_on(under)).drop()
    assert under.events == ["cancelled"]
    await asyncio.sleep(0)
    assert under.events == ["cancelled", "read"]


@pytest.mark.parametrize("num_written", [0, 1])
async def test_a_question_that_is_not_sent_ends_with_its_call(num_written: int) -> None:
    """This holds before and after the call has begun; the requesting task is not cancelled, and no caller hangs."""
    under = _Held(num_written)
    line = await _line_on(under)
    for _ in range(num_written):
        assert await line.exchange("question") == "answer"
    asked = asyncio.ensure_future(line.exchange("question"))
    await asyncio.sleep(0)
    under.cancel()
    await asyncio.wait([asked], timeout=5)
    with pytest.raises(ServerError, match="cancelled") as caught:
        asked.result()
    assert caught.value.code == "CANCELLED"


async def test_a_cancelled_question_that_is_not_sent_is_over() -> None:
    """The requesting task is cancelled, and so is the call."""
    under = _Held(0)
    line = await _line_on(under)
    await _cancel(line.exchange("question"))
    assert under.events == ["cancelled"]
    assert line.is_over


@pytest.mark.parametrize("num_ticks", range(12))
async def test_a_client_closed_early_keeps_nobody_waiting(address: str, of_wire: WireOptions, num_ticks: int) -> None:
    """However far the first question is on its way."""
    client = AsyncClient(address, **of_wire)
    asked = asyncio.ensure_future(client.predict(WAIT, timeout_seconds=4))
    for _ in range(num_ticks):
        await asyncio.sleep(0)
    await client.close()
    await asyncio.wait([asked], timeout=5)
    assert asked.done()
    error = asked.exception()
    assert isinstance(error, ServerError)
    assert error.code == "CANCELLED"


@pytest.mark.parametrize("asks", ["models", "predict", "generate"])
async def test_a_task_that_once_swallowed_a_cancel_is_not_cancelled(
    address: str, service: FakeService, of_wire: WireOptions, asks: str
) -> None:
    """When its client is closed later: it hears that the call was cancelled, as any other."""
    client, is_asking = AsyncClient(address, **of_wire), asyncio.Event()

    async def swallow_and_ask() -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        is_asking.set()
        if asks == "models":
            return await client.model()
        return await (client.predict(WAIT) if asks == "predict" else anext(client.generate(WAIT)))

    asked = asyncio.create_task(swallow_and_ask())
    await asyncio.sleep(0)
    service.may_answer.clear()
    asked.cancel()
    await is_asking.wait()
    assert await asyncio.to_thread((service.is_holding if asks == "models" else service.is_waiting).wait, 10)
    await client.close()
    with pytest.raises(ServerError) as caught:
        await asyncio.wait_for(asked, 5)
    assert caught.value.code == "CANCELLED"
