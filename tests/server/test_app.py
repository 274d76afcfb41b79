"""The application as a whole, in this process: from a bundle on disk to answers on a port, and down again in order."""

import asyncio
import contextlib
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests import bundles
from tests.bounds import make_bounds
from tests.fakes import ToyModel

from carousel import tasks
from carousel.app import Running, running, serve
from carousel.bundle.manifest import CORE_FILE, Bundle
from carousel.engine.engine import Engine
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.errors import BundleInvalid, Overloaded, ProviderUnavailable, SettingsInvalid, StoreUnavailable
from carousel.metrics import Metrics
from carousel.rpc.server import ConnectionBounds
from carousel.sessions import sweep
from carousel.sessions.checks import Limits
from carousel.sessions.composition import make_sessions
from carousel.sessions.operations import SessionOperations
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Lifetimes, Row
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

LOCAL = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
GREEDY = wire.Sampling(temperature=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory)
    return directory


def request(num_tokens: int, session_id: str = "") -> wire.GenerateRequest:
    given = types_pb2.Input(text="hello")
    return wire.GenerateRequest(session_id=session_id, input=given, sampling=GREEDY, max_tokens=num_tokens)


async def collect(call: Any) -> list[wire.GenerateResponse]:
    return [message async for message in call]


def no_task_is_left() -> bool:
    return len([task for task in asyncio.all_tasks() if "grpc" not in repr(task).lower()]) == 1


async def test_it_serves_the_bundles_model(bundle: Path) -> None:
    """Greedy tokens over the wire are those of the graphs run by hand."""
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


async def test_leaving_lets_running_turns_finish(bundle: Path) -> None:
    """A generation that runs when the server goes down comes to its end, saved and with `finished`."""
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
    """Past the deadline a running Generate and an idle Predict get UNAVAILABLE; the session stays."""
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
    """`serve` announces once, drains at the first signal, says how long, returns, and gives the signals back."""
    announced: list[Running] = []
    drains: list[float] = []

    def announce(server: Running) -> None:
        announced.append(server)
        assert asyncio.get_running_loop().get_exception_handler() is not None  # asyncio's own would print texts
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


async def test_a_broken_bundle_does_not_start(bundle: Path, tmp_path: Path) -> None:
    """Nothing is left behind by a start that failed."""
    bundles.write_bundle(tmp_path)
    (tmp_path / CORE_FILE).write_bytes(b"edited")
    with pytest.raises(BundleInvalid, match=CORE_FILE):
        async with running(tmp_path, Settings(**LOCAL)):
            pytest.fail("it must not start")
    assert no_task_is_left()


async def test_a_missing_provider_does_not_start(bundle: Path) -> None:
    """Asked for alone, a provider that is not there is the start's error."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this installation has CUDA")
    with pytest.raises(ProviderUnavailable, match="cuda"):
        async with running(bundle, Settings(**LOCAL, providers=("cuda",))):
            pytest.fail("it must not start")
    async with running(bundle, Settings(**LOCAL, providers=("cuda", "cpu"))) as server:
        assert server.provider == "cpu"


@pytest.mark.parametrize("which", ["listen", "http_listen"])
async def test_a_taken_port_does_not_start(bundle: Path, which: str) -> None:
    """The setting is named, and what had started before it is taken down."""
    async with running(bundle, Settings(**LOCAL)) as server:
        address = server.grpc_address if which == "listen" else server.http_address
        before = asyncio.all_tasks()
        with pytest.raises(SettingsInvalid, match=f"{which}: .*{address}"):
            async with running(bundle, Settings(**(LOCAL | {which: address}))):
                pytest.fail("it must not start")
        assert asyncio.all_tasks() - before == set()


async def test_sessions_expire_without_anybody_asking(bundle: Path) -> None:
    """The sweep ends idle sessions by itself."""
    async with running(bundle, Settings(**LOCAL, session_idle_seconds=0.01)) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await sessions_pb2_grpc.SessionsStub(channel).CreateSession(sessions_pb2.CreateSessionRequest())
        async with asyncio.timeout(10):
            while await server.store.num_live():
                await asyncio.sleep(0.01)


async def fetch(address: str, path: str) -> tuple[int, str]:
    """Status and body over plain HTTP."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def health_of(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return int(answer.status)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_SECONDS", 0.01)


@pytest.mark.parametrize("needs_store", [True, False])
@pytest.mark.usefixtures("quick_sweep")
async def test_a_store_that_does_not_answer_is_told_to_balancers(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, needs_store: bool
) -> None:
    """/readyz and the gauge say it in any case; status and gRPC health where the setting wants it, and back again."""
    async with running(bundle, Settings(**LOCAL, unready_without_store=needs_store)) as server:

        async def says(text: str) -> bool:
            return (await fetch(server.http_address, "/readyz"))[1] == text

        async def fail() -> int:
            raise StoreUnavailable("redis://:hunter2@host") from ConnectionError("hunter2")

        assert await fetch(server.http_address, "/readyz") == (200, "ready\n")
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
            patch.setattr(server.store, "num_live", fail)
            state = "not ready" if needs_store else "ready"
            await until(lambda: says(f"{state}; the session store does not answer: ConnectionError\n"))
            assert (await fetch(server.http_address, "/readyz"))[0] == (503 if needs_store else 200)
            wanted = health_pb2.HealthCheckResponse.NOT_SERVING if needs_store else 1

            async def health_says() -> bool:
                return await health_of(server.grpc_address) == wanted

            await until(health_says)
            assert "carousel_store_up 0.0" in (await fetch(server.http_address, "/metrics"))[1]
        await until(lambda: says("ready\n"))
        assert await health_of(server.grpc_address) == health_pb2.HealthCheckResponse.SERVING
        assert [line["event"] for line in lines if "store" in line["event"]] == ["the session store does not answer"]


@pytest.mark.usefixtures("quick_sweep")
async def test_a_sweep_that_dies_is_begun_anew(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error that nobody expected; counted, and afterwards sessions expire again."""
    monkeypatch.setattr(tasks, "_FIRST_PAUSE", 0.01)
    deaths = iter(range(2))

    async def expire(operations: SessionOperations) -> None:
        if next(deaths, None) is not None:
            raise RuntimeError("OOM command not allowed")
        while await operations._store.sweep(100):
            pass

    monkeypatch.setattr(SessionOperations, "expire", expire)
    async with running(bundle, Settings(**LOCAL, session_idle_seconds=0.01)) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await sessions_pb2_grpc.SessionsStub(channel).CreateSession(sessions_pb2.CreateSessionRequest())

        async def is_empty() -> bool:
            return await server.store.num_live() == 0

        await until(is_empty)
        page = (await fetch(server.http_address, "/metrics"))[1]
        assert 'carousel_task_restarts_total{task="sweep"} 2.0' in page


async def test_the_loops_lag_is_measured(bundle: Path) -> None:
    """From the start on, by a task of its own."""
    async with running(bundle, Settings(**LOCAL)) as server:

        async def is_measured() -> bool:
            page = (await fetch(server.http_address, "/metrics"))[1]
            return "carousel_event_loop_lag_seconds_count" in page and "lag_seconds_count 0.0" not in page

        await until(is_measured)


def test_every_bound_of_calls_and_connections_reaches_its_place() -> None:
    """Each setting by itself, so that none is taken for another."""
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
    assert StreamBounds.of(settings) == StreamBounds(11, 12, 13)
    assert ConnectionBounds.of(settings) == ConnectionBounds(14, 11 + 12 + 28 + 20, 15, 16, 25, 26, 27, 28)
    assert Limits.of(settings) == Limits(17, 18, 19, 20, 21)
    bounds = Bounds.of(settings)
    assert (bounds.max_lanes, bounds.max_short_lanes, bounds.owner_limits) == (22, 23, settings.owner_limits)


def test_what_sessions_remember_is_set(bundle: Path) -> None:
    """How many ids and answers, how large snapshots may be for the penalty window, and how many may watch."""
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
    """The one that tokenizes long texts, and the one that looks for who holds the loop, which the setting starts."""

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
    """The setting's key is lowered, one value is a name, none and two are nobody."""
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


def plain(tag: int, token: int, session_id: str) -> wire.PredictManyRequest.Item:
    given = types_pb2.Input(tokens=types_pb2.TokenIds(ids=[token]))
    return wire.PredictManyRequest.Item(tag=tag, request=wire.PredictRequest(session_id=session_id, input=given))


@pytest.mark.parametrize(("when_full", "num_held"), [("evict", 3), ("refuse", 0)])
async def test_streams_hold_sessions_where_room_need_not_be_set_aside(
    when_full: str, num_held: int, bundle: Path
) -> None:
    """While they are active; idle ones are given back without anybody asking."""
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


async def test_a_drain_amid_many_sequences_loses_nothing(bundle: Path, tmp_path: Path) -> None:
    """Each item has its answer or UNAVAILABLE, or the stream ends so; what was answered sleeps in the file."""
    settings = Settings(**LOCAL, memory_file=str(tmp_path / "sessions"), drain_seconds=5)
    told = dict.fromkeys(range(20), 0)

    async def talk(stream: Any) -> None:
        await stream.write(wire.PredictManyRequest(items=[plain(tag, 1, f"s{tag}") for tag in told]))
        while (frame := await stream.read()) is not grpc.aio.EOF:
            again = []
            for item in frame.items:
                if item.HasField("response"):
                    told[item.tag] = item.response.position
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
            await asyncio.sleep(0.3)
            started = time.monotonic()
        assert time.monotonic() < started + 4
        await asyncio.gather(talking, return_exceptions=True)
        # grpc.aio has a word of its own for a message that was written while the end was on its way.
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


def _gauges(address: str) -> dict[str, float]:
    """Of the page for Prometheus, by name, or by name and limit."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    samples = [sample for family in families if family.type == "gauge" for sample in family.samples]
    return {sample.name + sample.labels.get("name", ""): sample.value for sample in samples}


async def _gauges_when(address: str, is_so: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """They are told once a second."""
    async with asyncio.timeout(20):
        while not is_so(found := await asyncio.to_thread(_gauges, address)):
            await asyncio.sleep(0.05)
    return found


async def test_use_and_limits_are_told_side_by_side(bundle: Path) -> None:
    """What runs and what sessions take; and every number that bounds something, also one that the store chooses."""
    settings = Settings(**LOCAL, max_lanes=3, max_lanes_per_owner=2, max_generated_tokens=10**6, max_answer_items=10**6)
    async with running(bundle, settings) as server, grpc.aio.insecure_channel(server.grpc_address) as channel:
        assert (await asyncio.to_thread(_gauges, server.http_address))["carousel_busy_lanes"] == 0
        await sessions_pb2_grpc.SessionsStub(channel).CreateSession(sessions_pb2.CreateSessionRequest())
        endless = language_model_pb2_grpc.LanguageModelStub(channel).Generate(request(10**6))
        await endless.read()
        found = await _gauges_when(
            server.http_address, lambda now: bool(now["carousel_session_bytes"] and now["carousel_busy_lanes"])
        )
        assert found["carousel_busy_lanes"] == 1
        assert found["carousel_live_sessions"] == 1
        endless.cancel()
        await _gauges_when(server.http_address, lambda now: not now["carousel_busy_lanes"])
    limits = {name.removeprefix("carousel_limit"): n for name, n in found.items() if name.startswith("carousel_limit")}
    assert limits["max_lanes"] == 3
    assert limits["max_lanes_per_owner"] == 2
    assert limits["max_session_bytes"] == 2**31
    assert limits["reserved_streams"] == settings.reserved_streams
    assert "max_sessions_per_owner" not in limits
    numbers = {name for name, value in settings if name.startswith("max_") and value is not None}
    assert numbers | {"max_session_bytes", "reserved_streams"} == limits.keys()
