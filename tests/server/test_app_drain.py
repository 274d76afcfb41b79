"""The application goes down in order: what runs may finish, and what does not is told so."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.server.running_app import LOCAL, no_task_is_left, plain, request

from carousel.app import Running, running, serve
from carousel.settings import Settings
from carousel.state.store import Row
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc


async def test_leaving_lets_running_turns_finish(bundle: Path) -> None:
    """A generation that runs at the end comes to its own end, saved and with `finished`."""
    settings = Settings(**LOCAL, drain_seconds=20.0)
    async with running(bundle, settings) as server:
        channel = grpc.aio.insecure_channel(server.grpc_address)
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        session = sessions_pb2.CreateSessionRequest(session_id="s")
        await sessions_pb2_grpc.SessionsStub(channel).CreateSession(session)
        call = stub.Generate(request(600, "s"))
        first = await call.read()
        rest = asyncio.create_task(_read_all(call))
    messages = [first, *await rest]
    await channel.close()
    assert sum(len(message.tokens) for message in messages) == 600
    assert messages[-1].finished.position == 605
    assert await position_of(server, "s") == 605


async def position_of(server: Running, session_id: str) -> int:
    row = await server.store.read("", session_id)
    assert isinstance(row, Row)
    return row.position


async def _read_all(call: Any) -> list[wire.GenerateResponse]:
    messages = []
    while (message := await call.read()) != grpc.aio.EOF:
        messages.append(message)
    return messages


async def test_leaving_ends_what_does_not_finish_with_unavailable(bundle: Path) -> None:
    """Past the deadline, a running Generate and an idle Predict get UNAVAILABLE; the session stays."""
    endless = {"max_generated_tokens": 10**9, "max_answer_items": 10**9}
    async with running(bundle, Settings(**LOCAL, drain_seconds=0.0, **endless)) as server:
        channel = grpc.aio.insecure_channel(server.grpc_address)
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        session = sessions_pb2.CreateSessionRequest(session_id="s")
        await sessions_pb2_grpc.SessionsStub(channel).CreateSession(session)
        running_call, idle_call = stub.Generate(request(10**9, "s")), stub.Predict()
        await running_call.read()
        await idle_call.write(wire.PredictRequest())
        await idle_call.read()
        codes = [asyncio.create_task(call.code()) for call in (running_call, idle_call)]
        reading = asyncio.create_task(_read_all(running_call))
    assert [await code for code in codes] == [grpc.StatusCode.UNAVAILABLE] * 2
    with pytest.raises(grpc.aio.AioRpcError, match="shut"):
        await reading
    await channel.close()
    assert await position_of(server, "s") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serving(bundle: Path, number: signal.Signals) -> None:
    """`serve` announces itself once, drains at the first signal, says how long, returns, and restores the signals'
    handlers."""
    announced: list[Running] = []
    drains: list[float] = []

    def announce(server: Running) -> None:
        announced.append(server)
        assert asyncio.get_running_loop().get_exception_handler() is not None  # asyncio's own handler would print texts
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)

    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    try:
        await asyncio.wait_for(serve(bundle, Settings(**LOCAL, drain_seconds=7.0), announce, drains.append), 20)
    finally:
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)
    assert len(announced) == 1
    assert drains == [7.0]
    assert no_task_is_left()


async def test_a_drain_amid_many_sequences_loses_nothing(bundle: Path, tmp_path: Path) -> None:
    """Each item gets its answer or UNAVAILABLE, or the stream ends so; what was answered is in the file."""
    settings = Settings(**LOCAL, memory_file=str(tmp_path / "sessions"), drain_seconds=5)
    told = dict.fromkeys(range(20), 0)
    is_busy = asyncio.Event()  # each has been answered again

    async def talk(stream: Any) -> None:
        await stream.write(wire.PredictManyRequest(items=[plain(tag, 1, f"s{tag}") for tag in told]))
        while (frame := await stream.read()) is not grpc.aio.EOF:
            again = []
            for item in frame.items:
                if item.HasField("response"):
                    told[item.tag] = item.response.position
                    if min(told.values()) > 1:
                        is_busy.set()
                    again.append(plain(item.tag, 2, ""))
                else:
                    assert item.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
            await stream.write(wire.PredictManyRequest(items=again))

    async with contextlib.AsyncExitStack() as stack:
        async with running(bundle, settings) as server:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.grpc_address))
            sessions = sessions_pb2_grpc.SessionsStub(channel)
            for number in told:
                await sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=f"s{number}"))
            stream = language_model_pb2_grpc.LanguageModelStub(channel).PredictMany()
            talking = asyncio.create_task(talk(stream))
            await asyncio.wait_for(is_busy.wait(), 20)
            started = time.monotonic()
        assert time.monotonic() < started + 4
        await asyncio.gather(talking, return_exceptions=True)
        # grpc.aio has its own status for a message that was written while the end was on its way.
        assert (await stream.code(), await stream.details()) in (
            (grpc.StatusCode.UNAVAILABLE, "the server is shutting down"),
            (grpc.StatusCode.INTERNAL, "Internal error from Core"),
        )
    assert min(told.values()) > 1
    async with running(bundle, settings) as server:
        for number, position in told.items():
            row = await server.store.read("", f"s{number}")
            assert isinstance(row, Row)
            assert row.position >= position
