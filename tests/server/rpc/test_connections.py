"""Connections are bounded, and one that breaks, idles or does not begin is let go without harm to others."""

import asyncio
import contextlib
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.server.rpc.served_house import GREEDY, Code, Wire, drain, served, text, until

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2

_ANEW = (("grpc.use_local_subchannel_pool", 1),)  # a separate connection


async def test_garbage_on_the_port_harms_nobody() -> None:
    """Bytes that are no HTTP/2 end their own connection; callers before and after are served."""
    async with served() as house:
        host, port = house.server.address.rsplit(":", 1)
        for garbage in (
            b"\0" * 4096,
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999,
            b"",
        ):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(garbage)
            await house.model.ListModels(wire.ListModelsRequest())


@pytest.mark.parametrize("has_read", [True, False])
async def test_a_client_that_goes_frees_its_lane(has_read: bool) -> None:
    """A call that is cancelled mid-stream, reading or not, is CANCELLED; its lane is free and its session is where it
    was."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        request = wire.GenerateRequest(
            session_id="s", input=text("a"), sampling=GREEDY, max_tokens=100_000, num_log_probabilities=16
        )
        stream = house.model.Generate(request)
        if has_read:
            await stream.read()
        else:
            await until(lambda: house.world.value("generated_tokens_total") > 0)
        stream.cancel()
        await until(lambda: house.world.is_idle)
        await until(lambda: house.world.value("requests_total", method="Generate", code="CANCELLED") == 1)
        assert house.world.value("running_requests", method="Generate") == 0
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 0


@pytest.mark.parametrize("is_stuck", [True, False])
async def test_a_connection_that_breaks_frees_the_lane(is_stuck: bool) -> None:
    """When the network fails, nothing stays open, even while no one reads and the stream is full."""
    async with served() as house:
        cable = Wire(house.server.address)
        async with grpc.aio.insecure_channel(await cable.open()) as channel:
            stub = language_model_pb2_grpc.LanguageModelStub(channel)
            request = wire.GenerateRequest(
                input=text("a"), sampling=GREEDY, max_tokens=100_000, num_log_probabilities=16
            )
            stream = stub.Generate(request)
            await stream.read()
            if is_stuck:
                cable.flows.clear()
                await until(lambda: house.world.value("consumed_tokens_total") > 1_500)
            await cable.cut()
            assert await stream.code() is Code.UNAVAILABLE
        await until(lambda: house.world.is_idle)
        await until(lambda: house.world.value("requests_total", method="Generate", code="CANCELLED") == 1)
        assert house.calls._open == {}


async def test_a_deadline_that_passes_frees_the_lane() -> None:
    """The client gets DEADLINE_EXCEEDED, the lane is free, and the session stays."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        request = wire.GenerateRequest(session_id="s", input=text("a"), sampling=GREEDY, max_tokens=100_000)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await drain(house.model.Generate(request, timeout=0.15))
        assert error.value.code() is Code.DEADLINE_EXCEEDED
        await until(lambda: house.world.is_idle)
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == 0


async def _hear(address: str) -> bytes:
    """Returns all that the server says to a silent connection before it closes it."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_a_connection_that_does_not_begin_is_closed() -> None:
    """The connection says nothing, not even that it speaks HTTP/2."""
    async with served(handshake_seconds=0.2) as house:
        assert await _hear(house.server.address)  # the server's first bytes, and then the end


async def test_connections_are_bounded() -> None:
    """One beyond the bound is closed at once, open ones go on, and one that ends makes room."""
    async with served(max_connections=2) as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == 1
        host, _, port = house.server.address.rpartition(":")
        _, second = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionResetError):
            assert await _hear(house.server.address) == b""
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        second.close()
        async with grpc.aio.insecure_channel(house.server.address, _ANEW) as channel:
            again = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10
            )
            assert (await again).status == 1


async def test_a_connection_without_calls_is_closed_and_made_anew() -> None:
    """Its client notices nothing: the next call connects again. A connection with a call stays."""
    async with served(idle_seconds=0.2) as house, grpc.aio.insecure_channel(house.server.address, _ANEW) as busy:
        watch = health_pb2_grpc.HealthStub(busy).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == 1
        health = health_pb2_grpc.HealthStub(house.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        async with asyncio.timeout(10):
            state = house.channel.get_state()
            while state is grpc.ChannelConnectivity.READY:
                await house.channel.wait_for_state_change(state)
                state = house.channel.get_state()
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        await house.server.set_ready(is_ready=False)
        assert (await watch.read()).status == 2
