"""The application looks after itself: sessions expire, a lost store is told, and use and limits are measured."""

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tests.server.running_app import LOCAL, fetch, request, until

from carousel import tasks
from carousel.app import running
from carousel.errors import StoreUnavailable
from carousel.sessions import sweep
from carousel.sessions.operations import SessionOperations
from carousel.settings import Settings
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc


async def test_sessions_expire_without_anybody_asking(bundle: Path) -> None:
    """The sweep ends idle sessions by itself."""
    async with running(bundle, Settings(**LOCAL, session_idle_seconds=0.01)) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await sessions_pb2_grpc.SessionsStub(channel).CreateSession(sessions_pb2.CreateSessionRequest())
        async with asyncio.timeout(10):
            while await server.store.num_live():
                await asyncio.sleep(0.01)


async def health_of(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return int(answer.status)


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_SECONDS", 0.01)


@pytest.mark.parametrize("needs_store", [True, False])
@pytest.mark.usefixtures("quick_sweep")
async def test_a_store_that_does_not_answer_is_told_to_balancers(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, needs_store: bool
) -> None:
    """/readyz and the gauge always show it, status and gRPC health where the setting wants it; all of them show its
    return."""
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
    """It ends by an unexpected error, which is counted; afterwards sessions expire again."""
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
    """A separate task measures it from the start on."""
    async with running(bundle, Settings(**LOCAL)) as server:

        async def is_measured() -> bool:
            page = (await fetch(server.http_address, "/metrics"))[1]
            return "carousel_event_loop_lag_seconds_count" in page and "lag_seconds_count 0.0" not in page

        await until(is_measured)


def _gauges(address: str) -> dict[str, float]:
    """Reads the gauges of the page for Prometheus, by name, or by name and limit."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    samples = [sample for family in families if family.type == "gauge" for sample in family.samples]
    return {sample.name + sample.labels.get("name", ""): sample.value for sample in samples}


async def _gauges_when(address: str, is_so: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Waits for the gauges, which are updated once a second."""
    async with asyncio.timeout(20):
        while not is_so(found := await asyncio.to_thread(_gauges, address)):
            await asyncio.sleep(0.05)
    return found


async def test_use_and_limits_are_told_side_by_side(bundle: Path) -> None:
    """The gauges have what runs and what sessions take, and every number that bounds something, even one that the store
    chooses."""
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
