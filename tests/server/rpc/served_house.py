"""A served world over a real port with a client's stubs, and a connection to it that can be cut."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.bounds import make_connection_bounds, make_limits
from tests.fakes import GatedModel
from tests.worlds import Plan, World, running_world

from carousel.identity.doorkeeper import Doorkeeper
from carousel.readiness import StoreHealth
from carousel.rpc import convert
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.server import RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions.calls import Calls
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2_grpc, types_pb2

Code = grpc.StatusCode
GREEDY = wire.Sampling(temperature=0, seed=1)
LONG = make_limits(max_input_tokens=1000, max_generated_tokens=100_000, max_answer_items=10**7)
MAX_MESSAGE_BYTES = 200_000


@dataclass(frozen=True)
class House:
    """A served world with a client's stubs."""

    world: World
    server: RpcServer
    calls: Calls
    channel: Any
    model: Any  # the stubs, which have no types
    sessions: Any

    @property
    def gate(self) -> threading.Event:
        assert isinstance(self.world.plan.model, GatedModel)
        return self.world.plan.model.gate


@contextlib.asynccontextmanager
async def served(
    plan: Plan | None = None, *, max_streams: int = 100, owner: str = "", **bounds: Any
) -> AsyncIterator[House]:
    """Serves a world. `bounds` are those of connections."""
    async with running_world(plan or Plan(model=GatedModel(), limits=LONG)) as world:
        health = StoreHealth(world.metrics.store_is_up)
        calls = Calls(StreamBounds(max_streams), Doorkeeper(owner), world.metrics, health, code_of)
        description = convert.from_manifest(world.manifest, "cpu", Settings())
        services = (
            LanguageModelServicer(world.sessions, description, RpcCalls(calls)),
            SessionsServicer(world.sessions, world.operations, world.inspection, RpcCalls(calls)),
        )
        server = RpcServer(*services, RpcCalls(calls).admit, make_connection_bounds(MAX_MESSAGE_BYTES, **bounds))
        await server.start("127.0.0.1:0")
        await server.set_ready(is_ready=True)
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                model = language_model_pb2_grpc.LanguageModelStub(channel)
                yield House(world, server, calls, channel, model, sessions_pb2_grpc.SessionsStub(channel))
        finally:
            if isinstance(world.plan.model, GatedModel):
                world.plan.model.gate.set()
            await server.stop(0)


def text(value: str) -> types_pb2.Input:
    return types_pb2.Input(text=value)


def tokens(*ids: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """Returns code, message and details by name of a call, unary or streaming, that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await (drain(call) if hasattr(call, "__aiter__") else call)
    status = rpc_status.from_call(error.value)
    details = {}
    for packed in status.details if status is not None else ():
        kind = packed.TypeName().rpartition(".")[2]
        message = getattr(error_details_pb2, kind)()
        packed.Unpack(message)
        details[kind] = message
    assert error.value.details()
    return error.value.code(), error.value.details(), details


async def drain(call: Any) -> list[Any]:
    return [message async for message in call]


class Wire:
    """A connection to a server that can stop to carry bytes, and can be cut without a good-bye."""

    def __init__(self, address: str) -> None:
        self._server_host, _, self._server_port = address.rpartition(":")
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.flows = asyncio.Event()
        self.flows.set()
        self.num_carried = 0  # pieces, both ways

    async def open(self) -> str:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._server_host, int(self._server_port))
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.append(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await source.read(4096):
                await self.flows.wait()
                sink.write(content)
                await sink.drain()
                self.num_carried += 1

    async def cut(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
