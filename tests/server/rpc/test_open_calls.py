"""Calls over a real port when streams run short, and when the other end has gone without notice."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.hostile_peer import call_unread
from tests.server.rpc.desk import Desk, open_desk
from tests.server.rpc.served_house import Wire, refusal, until

from carousel.sessions import calls
from carousel.sessions.streams import StreamBounds
from carousel.shares import OwnerLimits
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2

Code = grpc.StatusCode
ANN, BOB, CID = (("x-owner", "ann"),), (("x-owner", "bob"),), (("x-owner", "cid"),)
ENDLESS = wire.GenerateRequest(max_tokens=1001)


async def rest(desk: Desk, metadata: Any = ANN) -> Any:
    """Opens a Predict stream that has had one answer and is idle."""
    stream = desk.model.Predict(metadata=metadata)
    await stream.write(wire.PredictRequest())
    await stream.read()
    return stream


def num_open(desk: Desk) -> int:
    return len(desk.calls._open)


async def test_idle_streams_of_one_do_not_keep_another_out() -> None:
    """The call that idled longest ends with RESOURCE_EXHAUSTED; the others live, and the newcomer's call is served."""
    async with open_desk(StreamBounds(3), owner="x-owner") as desk:
        streams = [await rest(desk) for _ in range(3)]
        answer = await desk.model.Tokenize(wire.TokenizeRequest(text="a"), metadata=BOB)
        assert [token.id for token in answer.tokens] == [1]
        code, _, details = await refusal(streams[0].read())
        assert (code, details["ErrorInfo"].reason) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert details["ErrorInfo"].metadata["limit"] == "max_streams"
        for stream in streams[1:]:
            await stream.write(wire.PredictRequest())
            assert (await stream.read()).position == 2
        for stream in streams[1:]:
            stream.cancel()
        await until(lambda: num_open(desk) == 0)


async def test_a_watch_is_idle() -> None:
    """It is closed like a silent Predict."""
    async with open_desk(StreamBounds(1), owner="x-owner") as desk:
        watching = desk.life.WatchSessions(sessions_pb2.WatchSessionsRequest(), metadata=ANN)
        await watching.initial_metadata()
        await desk.model.Tokenize(wire.TokenizeRequest(text="a"), metadata=BOB)
        assert (await refusal(watching.read()))[0] is Code.RESOURCE_EXHAUSTED


async def test_one_owners_watches_are_bounded_by_name() -> None:
    """Beyond max_watches_per_owner he is refused, and his place among the calls is free again; another owner is not."""
    async with open_desk(StreamBounds(10), owner="x-owner") as desk:
        watches = [desk.life.WatchSessions(sessions_pb2.WatchSessionsRequest(), metadata=ANN) for _ in range(2)]
        for watch in watches:
            await watch.initial_metadata()
        third = desk.life.WatchSessions(sessions_pb2.WatchSessionsRequest(), metadata=ANN, timeout=5)
        code, _, details = await refusal(third.read())
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_watches_per_owner")
        assert num_open(desk) == 2
        his = desk.life.WatchSessions(sessions_pb2.WatchSessionsRequest(), metadata=BOB)
        await his.initial_metadata()
        for watch in (his, *watches):
            watch.cancel()
        await until(lambda: num_open(desk) == 0)


async def test_running_calls_are_not_closed() -> None:
    """The newcomer gets a place of the reserve and beyond it is refused; no generation ends."""
    async with open_desk(StreamBounds(2, 1), owner="x-owner") as desk:
        running = [desk.model.Generate(ENDLESS, metadata=ANN) for _ in range(2)]
        for stream in running:
            await stream.read()
        his = await rest(desk, BOB)
        code, _, details = await refusal(desk.model.Tokenize(wire.TokenizeRequest(), metadata=BOB))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_streams")
        assert desk.sessions.num_running == 2
        for stream in (his, *running):
            stream.cancel()
        await until(lambda: num_open(desk) == desk.sessions.num_running == 0)


async def test_a_stream_that_nobody_reads_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client has left no room for an answer: the call does not keep another owner out, and it ends."""
    monkeypatch.setattr(calls, "_UNREAD_SECONDS", 0.05)
    fields = {b"x-owner": b"ann"}
    async with open_desk(StreamBounds(2), owner="x-owner") as desk:
        with (
            call_unread(desk.server.address, b"carousel.v1.LanguageModel/Generate", fields),
            call_unread(desk.server.address, b"carousel.v1.LanguageModel/Predict", fields),
        ):
            await until(lambda: num_open(desk) == 2)
            await asyncio.sleep(0.3)
            streams = [await rest(desk, metadata) for metadata in (BOB, CID)]
            await until(lambda: num_open(desk) == 2)
            assert desk.sessions.num_running == 0
            for stream in streams:
                stream.cancel()
        await until(lambda: num_open(desk) == 0)
        assert desk.value("requests_total", method="Generate", code="RESOURCE_EXHAUSTED") == 1


async def test_who_goes_while_he_is_written_to_has_cancelled() -> None:
    """This is no error of the server's."""
    async with open_desk() as desk:
        unread = call_unread(desk.server.address, b"carousel.v1.LanguageModel/Predict")
        await until(lambda: len(desk.sessions.seen) == 1)
        await asyncio.sleep(0.1)
        unread.close()
        await until(lambda: num_open(desk) == 0)
        assert desk.value("requests_total", method="Predict", code="CANCELLED") == 1


async def test_a_stream_that_is_being_answered_is_not_idle() -> None:
    """It was idle before its client's message came."""
    async with open_desk(StreamBounds(1), owner="x-owner") as desk:
        stream = await rest(desk)
        desk.sessions.may_answer.clear()
        await stream.write(wire.PredictRequest())
        await until(lambda: len(desk.sessions.seen) == 2)
        assert (await refusal(desk.model.Tokenize(wire.TokenizeRequest(), metadata=BOB)))[0] is Code.RESOURCE_EXHAUSTED
        desk.sessions.may_answer.set()
        assert (await stream.read()).position == 2
        stream.cancel()


async def test_one_connection_opens_no_more_than_its_bound() -> None:
    """HTTP/2 makes the client wait, so the half-open calls of one peer are bounded before they are calls."""
    async with open_desk(streams_of_a_connection=1) as desk:
        stream = await rest(desk, None)
        waiting = asyncio.ensure_future(desk.model.GetModel(wire.GetModelRequest()))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        stream.cancel()
        assert (await waiting).name == "toy"


async def test_health_and_metadata_are_told_whatever_is_open() -> None:
    """GetModel, ListModels and health answer while the same caller has taken all places and gets no other call."""
    async with open_desk(StreamBounds(2)) as desk:
        streams = [await rest(desk, None) for _ in range(2)]
        await desk.model.GetModel(wire.GetModelRequest())
        await desk.model.ListModels(wire.ListModelsRequest())
        await health_pb2_grpc.HealthStub(desk.channel).Check(health_pb2.HealthCheckRequest())
        assert (await refusal(desk.model.Tokenize(wire.TokenizeRequest())))[0] is Code.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()


async def test_one_owners_streams_are_bounded_by_name() -> None:
    """Beyond max_streams_per_owner he is refused; another owner is not."""
    async with open_desk(StreamBounds(10, 0, OwnerLimits(max_calls=1)), owner="x-owner") as desk:
        stream = await rest(desk)
        code, _, details = await refusal(desk.model.Tokenize(wire.TokenizeRequest(), metadata=ANN))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_streams_per_owner")
        await desk.model.Tokenize(wire.TokenizeRequest(), metadata=BOB)
        stream.cancel()


@pytest.mark.parametrize("metadata", [(), ANN * 2, (("x-owner", ""),)])
async def test_who_is_not_named_once_is_unauthenticated(metadata: Any) -> None:
    """This holds for unary calls and streams; health needs no name."""
    async with open_desk(owner="x-owner") as desk:
        for call in (
            desk.model.GetModel(wire.GetModelRequest(), metadata=metadata),
            desk.model.Generate(wire.GenerateRequest(), metadata=metadata),
            desk.model.Predict(metadata=metadata),  # it says nothing, since grpc fails a message that meets the refusal
            desk.life.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=metadata),
        ):
            code, _, details = await refusal(call)
            assert (code, details["ErrorInfo"].reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert desk.sessions.seen == desk.operations.seen == []
        await health_pb2_grpc.HealthStub(desk.channel).Check(health_pb2.HealthCheckRequest(), metadata=metadata)


async def test_a_line_that_goes_silent_is_noticed() -> None:
    """A network carries nothing any more without closing: the running call and the idle stream are released."""
    async with open_desk(keepalive_seconds=0.3) as desk:
        cable = Wire(desk.server.address)
        async with grpc.aio.insecure_channel(await cable.open()) as channel:
            stub = language_model_pb2_grpc.LanguageModelStub(channel)
            running, idle = stub.Generate(ENDLESS), stub.Predict()
            await running.read()
            await idle.write(wire.PredictRequest())
            await idle.read()
            assert num_open(desk) == 2
            cable.flows.clear()
            await until(lambda: num_open(desk) == desk.sessions.num_running == 0)
            assert desk.value("requests_total", method="Generate", code="CANCELLED") == 1
            await cable.cut()


async def test_a_live_peer_may_be_silent() -> None:
    """The server asks it again and again whether it lives; it answers, and its stream goes on."""
    async with open_desk(keepalive_seconds=0.05) as desk:
        cable = Wire(desk.server.address)
        async with grpc.aio.insecure_channel(await cable.open()) as channel:
            stream = language_model_pb2_grpc.LanguageModelStub(channel).Predict()
            await stream.write(wire.PredictRequest())
            await stream.read()
            num_before = cable.num_carried
            await until(lambda: cable.num_carried >= num_before + 6)
            await stream.write(wire.PredictRequest())
            assert (await stream.read()).position == 2
            await cable.cut()


CLIENT = """
import sys, grpc
from carousel.v1 import language_model_pb2 as wire, language_model_pb2_grpc
from carousel.shares import OwnerLimits
stub = language_model_pb2_grpc.LanguageModelStub(grpc.insecure_channel(sys.argv[1]))
stream = stub.Generate(wire.GenerateRequest(max_tokens=1001))
next(stream)
print("reading", flush=True)
sys.stdin.read()
"""


async def test_a_stopped_client_is_noticed() -> None:
    """Its kernel still answers for it, but its gRPC does not."""
    async with open_desk(keepalive_seconds=0.3) as desk:
        command = [sys.executable, "-c", CLIENT, desk.server.address]
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"reading\n"
            assert desk.sessions.num_running == 1
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: num_open(desk) == desk.sessions.num_running == 0)
        finally:
            process.kill()
            await process.communicate()
