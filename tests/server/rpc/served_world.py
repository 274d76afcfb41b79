"""A real world behind a real port, and a client's end of a PredictMany stream."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import grpc
from google.rpc import error_details_pb2
from tests.bounds import make_connection_bounds
from tests.server.rpc.desk import MAX_MESSAGE_BYTES
from tests.worlds import Plan, World, running_world

from carousel.identity.doorkeeper import Doorkeeper
from carousel.readiness import StoreHealth
from carousel.rpc import convert
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.server import RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions import service
from carousel.sessions.calls import Calls
from carousel.sessions.many import Many
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.tasks import running_task
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc

SECONDS = 20.0
Code = grpc.StatusCode
ANN, BOB = (("x-owner", "ann"),), (("x-owner", "bob"),)


@dataclass
class ServedWorld:
    """A served world with a client's stubs, which have no types."""

    world: World
    calls: Calls
    health: StoreHealth
    server: RpcServer
    channel: Any
    manys: list[Many]  # the server's ends of all PredictMany streams
    model: Any = field(init=False)
    life: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = language_model_pb2_grpc.LanguageModelStub(self.channel)
        self.life = sessions_pb2_grpc.SessionsStub(self.channel)

    def many(self, **options: Any) -> "ManyStream":
        return ManyStream(self.model.PredictMany(**options))

    @property
    def num_slots(self) -> int:
        """Counts the slots in use."""
        return self.world.engine.columns.num_used

    @property
    def num_calls(self) -> int:
        return len(self.calls._open)

    async def until_idle(self) -> None:
        """Waits until no call is open, no session is held and nothing is in use."""
        await until(lambda: not self.num_calls and not self.num_slots and self.world.is_idle)
        assert not self.world.engine._num_advancing
        assert not len(self.world.residents)


@contextlib.asynccontextmanager
async def serving(
    plan: Plan | None = None, *, owner: str = "", streams: StreamBounds | None = None, **limits: int
) -> AsyncIterator[ServedWorld]:
    """Serves a world. `limits` are settings, which GetModel tells."""
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(running_world(replace(plan or Plan(), settings=limits)))
        health = StoreHealth(world.metrics.store_is_up)
        calls = Calls(streams or StreamBounds(1000), Doorkeeper(owner), world.metrics, health, code_of)
        model = convert.from_manifest(world.manifest, "cpu", Settings(**limits))
        services = (
            LanguageModelServicer(world.sessions, model, RpcCalls(calls)),
            SessionsServicer(world.sessions, world.operations, world.inspection, RpcCalls(calls)),
        )
        server = RpcServer(*services, RpcCalls(calls).admit, make_connection_bounds(MAX_MESSAGE_BYTES))
        await server.start("127.0.0.1:0")
        stack.push_async_callback(server.stop, 0)
        tidying = running_task("residents", world.residents.run, world.metrics.task_restarted)
        await stack.enter_async_context(tidying)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        manys: list[Many] = []

        def make_many(*arguments: Any) -> Many:
            manys.append(Many(*arguments))
            return manys[-1]

        stack.enter_context(mock.patch.object(service, "Many", make_many))
        yield ServedWorld(world, calls, health, server, channel, manys)


class ManyStream:
    """Keeps the answers in their order of arrival, by tag."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.answers: dict[int, list[Any]] = collections.defaultdict(list)
        self.num_answers = 0
        self.frames: list[wire.PredictManyResponse] = []

    async def send(self, *items: wire.PredictManyRequest.Item) -> None:
        """Sends the items in one frame."""
        await self.call.write(wire.PredictManyRequest(items=items))

    async def receive(self, num_answers: int) -> None:
        """Waits until the given number of answers has come."""
        async with asyncio.timeout(SECONDS):
            until = self.num_answers + num_answers
            while self.num_answers < until:
                assert self._keep(await self.call.read()), "the stream ended"

    async def ask(self, tag: int, token: int | None = None, **fields: Any) -> Any:
        """Sends one request and returns its answer."""
        await self.send(ask(tag, token, **fields))
        await self.receive(1)
        return self.answers[tag][-1]

    async def finish(self) -> grpc.StatusCode:
        """Ends the requests, receives the rest, and returns how the call ended."""
        await self.call.done_writing()
        async with asyncio.timeout(SECONDS):
            while self._keep(await self.call.read()):
                pass
            return await self.call.code()

    def _keep(self, frame: Any) -> bool:
        if frame is grpc.aio.EOF:
            return False
        self.frames.append(frame)
        for item in frame.items:
            self.answers[item.tag].append(getattr(item, item.WhichOneof("outcome")))
            self.num_answers += 1
        return True


def ask(tag: int, token: int | None = None, **fields: Any) -> wire.PredictManyRequest.Item:
    request = wire.PredictRequest(**fields)
    if token is not None:
        request.input.tokens.ids.append(token)
    return wire.PredictManyRequest.Item(tag=tag, request=request)


def end(tag: int) -> wire.PredictManyRequest.Item:
    return wire.PredictManyRequest.Item(tag=tag, close=True)


async def until(is_so: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.01)


async def open_sessions(served: ServedWorld, *names: str) -> None:
    for name in names:
        await served.world.open(name, "")


async def position(served: ServedWorld, name: str) -> int:
    return int((await served.life.GetSession(sessions_pb2.GetSessionRequest(session_id=name))).position)


def reason(status: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)
