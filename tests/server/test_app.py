"""The whole application, in this process, starts from a bundle on disk and answers on a port as its settings say."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from tests import bundles
from tests.bounds import make_bounds
from tests.fakes import ToyModel
from tests.server.running_app import LOCAL, collect, no_task_is_left, plain, request, until

from carousel.app import running
from carousel.bundle.manifest import CORE_FILE, Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.errors import BundleInvalid, Overloaded, ProviderUnavailable, SettingsInvalid
from carousel.metrics import Metrics
from carousel.rpc.server import ConnectionBounds
from carousel.sessions.checks import Limits
from carousel.sessions.composition import make_sessions
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Lifetimes
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc


async def test_it_serves_the_bundles_model(bundle: Path) -> None:
    """The greedy tokens over the wire are those of the graphs run by hand."""
    model, ids = OnnxModel(Bundle.load(bundle)), [ord("\n"), *b"hello"]
    state, expected = model.layout.initial(1), list[int]()
    while len(expected) < 12:
        for token in ids:
            hidden_BTH, state = model.core(*_one(token), state)
        ids = [int(model.logits(hidden_BTH[:, -1])[0].argmax())]
        expected += ids
    async with running(bundle, Settings(**LOCAL)) as server, grpc.aio.insecure_channel(server.grpc_address) as channel:
        messages = await collect(language_model_pb2_grpc.LanguageModelStub(channel).Generate(request(12)))
    assert [token.id for message in messages for token in message.tokens] == expected


def _one(token: int) -> tuple[Any, Any]:
    return np.array([[token]]), np.ones(1, np.int32)


async def test_it_is_ready_when_it_says_so_and_leaves_nothing(bundle: Path) -> None:
    """Ports are real, health is SERVING, and after the block no port is open and no task runs."""
    async with running(bundle, Settings(**LOCAL)) as server:
        assert not server.grpc_address.endswith(":0")
        assert not server.http_address.endswith(":0")
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for address in (server.grpc_address, server.http_address):
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
    assert no_task_is_left()


async def test_a_broken_bundle_does_not_start(bundle: Path, tmp_path: Path) -> None:
    """Nothing is left behind by a start that failed."""
    bundles.write_bundle(tmp_path)
    (tmp_path / CORE_FILE).write_bytes(b"edited")
    with pytest.raises(BundleInvalid, match=CORE_FILE):
        async with running(tmp_path, Settings(**LOCAL)):
            pytest.fail("it must not start")
    assert no_task_is_left()


async def test_a_missing_provider_does_not_start(bundle: Path) -> None:
    """When it is the only one asked for, its absence is the start's error."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this installation has CUDA")
    with pytest.raises(ProviderUnavailable, match="cuda"):
        async with running(bundle, Settings(**LOCAL, providers=("cuda",))):
            pytest.fail("it must not start")
    async with running(bundle, Settings(**LOCAL, providers=("cuda", "cpu"))) as server:
        assert server.provider == "cpu"


@pytest.mark.parametrize("which", ["listen", "http_listen"])
async def test_a_taken_port_does_not_start(bundle: Path, which: str) -> None:
    """The error names the setting, and what had started before is taken down."""
    async with running(bundle, Settings(**LOCAL)) as server:
        address = server.grpc_address if which == "listen" else server.http_address
        before = asyncio.all_tasks()
        with pytest.raises(SettingsInvalid, match=f"{which}: .*{address}"):
            async with running(bundle, Settings(**(LOCAL | {which: address}))):
                pytest.fail("it must not start")
        assert asyncio.all_tasks() - before == set()


def test_every_bound_of_calls_and_connections_reaches_its_place() -> None:
    """Each setting is checked by itself, so that none is taken for another."""
    settings = Settings(
        max_streams=11,
        reserved_streams=12,
        max_streams_per_owner=13,
        max_message_bytes=14,
        keepalive_seconds=15,
        keepalive_timeout_seconds=16,
        max_input_tokens=17,
        max_generated_tokens=18,
        max_input_bytes=19,
        max_answer_items=20,
        max_stop_ids=21,
        max_lanes=22,
        max_short_lanes=23,
        max_lanes_per_owner=24,
        max_connections=25,
        handshake_seconds=26,
        connection_idle_seconds=27,
        max_health_watches=28,
    )
    assert StreamBounds.of(settings) == StreamBounds(11, 12, settings.owner_limits)
    assert ConnectionBounds.of(settings) == ConnectionBounds(14, 11 + 12 + 28 + 20, 15, 16, 25, 26, 27, 28)
    assert Limits.of(settings) == Limits(17, 18, 19, 20, 21)
    bounds = Bounds.of(settings)
    assert (bounds.max_lanes, bounds.max_short_lanes, bounds.owner_limits) == (22, 23, settings.owner_limits)


def test_what_sessions_remember_is_set(bundle: Path) -> None:
    """The settings give the number of ids, answers and turns, the size of snapshots by the penalty window, and the
    number of watches."""
    loaded = Bundle.load(bundle)
    made = [
        make_sessions(
            Settings(
                retained_request_ids=31,
                retained_answers=3,
                retained_turns=5,
                penalty_window=window,
                max_watches_per_owner=1,
            ),
            loaded.manifest,
            loaded.tokenizer,
            Engine(ToyModel(), 0, make_bounds(), Metrics(CollectorRegistry())),
            MemoryStore(Capacity(1, 1, evicts=True), Lifetimes(1, 1)),
            Metrics(CollectorRegistry()),
        )
        for window in (0, 4096)
    ]
    retention = made[0].ledger.retention
    assert (retention.max_request_ids, retention.max_answers, retention.max_turns) == (31, 3, 5)
    assert made[1].operations._snapshot_bytes > made[0].operations._snapshot_bytes
    watch = made[0].operations.watch
    with watch("ann"), pytest.raises(Overloaded, match="1 watches"), watch("ann"):
        pass


async def test_helpers_that_are_threads_end_with_the_server(bundle: Path) -> None:
    """These are the thread that tokenizes long texts, and the one that looks for what holds the loop, which the setting
    starts."""

    def names() -> set[str]:
        return {one.name.rstrip("_0123456789") for one in threading.enumerate()} & {"tokenizer", "loop-watch"}

    async def have_ended() -> bool:
        return names() == set()

    async with running(bundle, Settings(**LOCAL, slow_handler_seconds=0.1)) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stub = language_model_pb2_grpc.LanguageModelStub(channel)
            await stub.Tokenize(wire.TokenizeRequest(text="a" * 60_000))
        assert names() == {"tokenizer", "loop-watch"}
    await until(have_ended)


async def test_who_is_not_named_is_refused_by_the_whole(bundle: Path) -> None:
    """The setting's key is lowered; one value is a name, and none or two are refused."""
    async with (
        running(bundle, Settings(**LOCAL, owner_metadata="X-User")) as server,
        grpc.aio.insecure_channel(server.grpc_address) as channel,
    ):
        stub = sessions_pb2_grpc.SessionsStub(channel)
        made = sessions_pb2.CreateSessionRequest(session_id="s")
        await stub.CreateSession(made, metadata=(("x-user", "ann"),))
        await stub.CreateSession(made, metadata=(("x-user", "bob"),))
        for metadata in ((), (("x-user", "ann"), ("x-user", "bob"))):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.CreateSession(made, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("when_full", "num_held"), [("evict", 3), ("refuse", 0)])
async def test_streams_hold_sessions_where_room_need_not_be_set_aside(
    when_full: str, num_held: int, bundle: Path
) -> None:
    """Streams hold sessions while they are active; idle ones are given back without a call."""
    settings = Settings(**LOCAL, when_full=when_full)
    async with running(bundle, settings) as server, grpc.aio.insecure_channel(server.grpc_address) as channel:
        for number in range(3):
            await sessions_pb2_grpc.SessionsStub(channel).CreateSession(
                sessions_pb2.CreateSessionRequest(session_id=f"s{number}")
            )
        stream = language_model_pb2_grpc.LanguageModelStub(channel).PredictMany()
        for token in range(3):
            await stream.write(wire.PredictManyRequest(items=[plain(tag, token, f"s{tag}") for tag in range(3)]))
            num_answers = 0
            while num_answers < 3:
                num_answers += len((await stream.read()).items)
        assert server.engine.columns.num_used == num_held
        async with asyncio.timeout(5):
            while server.engine.columns.num_used:
                await asyncio.sleep(0.02)
        stream.cancel()
