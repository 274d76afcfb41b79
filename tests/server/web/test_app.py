"""Operators read metrics and health over HTTP, on a port that the server reports."""

import asyncio
import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from carousel.errors import CarouselError, Overloaded, PermissionDenied, SettingsInvalid, StoreUnavailable
from carousel.errors import Unauthenticated as Unknown
from carousel.identity.doorkeeper import Evidence
from carousel.metrics import Metrics
from carousel.readiness import Readiness, StoreHealth
from carousel.web import app
from carousel.web.app import Admit, WebServer, make_app


def make_readiness(*, needs_store: bool = False) -> Readiness:
    return Readiness(StoreHealth(lambda is_up: None), needs_store=needs_store)


def admit_all(path: str, evidence: Evidence) -> None:
    """Nobody is asked for anything."""


@contextlib.asynccontextmanager
async def served(readiness: Readiness | None = None, admit: Admit = admit_all) -> AsyncIterator[WebServer]:
    registry = CollectorRegistry()
    Metrics(registry).session_created()
    server = WebServer(make_app(registry, readiness or make_readiness(), admit))
    await server.start("127.0.0.1:0")
    try:
        yield server
    finally:
        await server.stop()


async def fetch(server: WebServer, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Returns status, content type and body."""

    def get() -> tuple[int, str, str]:
        request = urllib.request.Request(f"http://{server.address}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()

    return await asyncio.to_thread(get)


async def test_answers_tell_the_time_as_it_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header Date follows the clock while the server runs, and the server ends between two looks at it."""
    now = 0.0
    monkeypatch.setattr("uvicorn.server.time", SimpleNamespace(time=lambda: now))
    monkeypatch.setattr(app, "_TICK_SECONDS", 0.001)

    def read_date(server: WebServer) -> str:
        with urllib.request.urlopen(f"http://{server.address}/healthz", timeout=10) as answer:
            return str(answer.headers["Date"])

    async with served() as server:
        assert await asyncio.to_thread(read_date, server) == "Thu, 01 Jan 1970 00:00:00 GMT"
        now = 86_400.0
        while await asyncio.to_thread(read_date, server) != "Fri, 02 Jan 1970 00:00:00 GMT":
            pass
        monkeypatch.setattr(app, "_TICK_SECONDS", 3600.0)
        await asyncio.to_thread(read_date, server)


async def test_metrics_are_served() -> None:
    """Plain text is the default, OpenMetrics comes on request."""
    async with served() as server:
        status, kind, body = await fetch(server, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "carousel_sessions_created_total 1.0" in body
        _, kind, body = await fetch(server, "/metrics", "application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")


async def test_readiness_follows_the_server_and_liveness_does_not() -> None:
    """/readyz is 503 until ready; /healthz is 200 as soon as anything answers."""
    readiness = make_readiness()
    async with served(readiness) as server:
        assert [(await fetch(server, path))[0] for path in ("/healthz", "/readyz")] == [200, 503]
        readiness.is_serving = True
        assert [(await fetch(server, path))[0] for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize("needs_store", [True, False])
async def test_a_store_that_does_not_answer_is_told(needs_store: bool) -> None:
    """The text always has it; the status too, where the server needs the store; liveness is unaffected."""
    readiness = make_readiness(needs_store=needs_store)
    readiness.is_serving = True
    async with served(readiness) as server:
        readiness.store.probe_failed(StoreUnavailable("redis://:hunter2@host"))
        status, _, body = await fetch(server, "/readyz")
        assert status == (503 if needs_store else 200)
        state = "not ready" if needs_store else "ready"
        assert body == f"{state}; the session store does not answer: StoreUnavailable\n"
        assert (await fetch(server, "/healthz"))[0] == 200
        readiness.store.probe_succeeded()
        assert (await fetch(server, "/readyz"))[::2] == (200, "ready\n")


async def test_a_large_page_of_metrics_does_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread writes it: the loop runs meanwhile."""
    has_begun, has_turned = threading.Event(), threading.Event()

    def encode(registry: CollectorRegistry) -> bytes:
        has_begun.set()
        return b"turned" if has_turned.wait(10) else b"held"

    monkeypatch.setattr(app, "choose_encoder", lambda accept: (encode, "text/plain"))
    async with served() as server:
        fetching = asyncio.create_task(fetch(server, "/metrics"))
        assert await asyncio.to_thread(has_begun.wait, 10)
        has_turned.set()
        assert (await fetching)[2] == "turned"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
@pytest.mark.parametrize(
    ("error", "status"),
    [(Unknown("who?"), 401), (PermissionDenied("no"), 403), (Overloaded("wait", limit="x", retry_seconds=2), 429)],
)
async def test_each_path_asks_who_calls(path: str, error: CarouselError, status: int) -> None:
    """With the request's headers and its peer; whom it does not admit sees nothing."""
    asked: list[tuple[str, Evidence]] = []

    def refuse(path: str, evidence: Evidence) -> None:
        asked.append((path, evidence))
        raise error

    async with served(admit=refuse) as server:
        found, _, body = await fetch(server, path)
    assert (found, body) == (status, f"{error}\n")
    ((name, evidence),) = asked
    assert name == path
    assert ("accept", "*/*") in evidence.metadata
    assert evidence.peer.startswith("ipv4:127.0.0.1:")
    assert not evidence.read_subjects()


async def test_other_paths_are_not_found() -> None:
    """There are no other pages."""
    async with served() as server:
        assert (await fetch(server, "/"))[0] == 404


async def test_a_port_that_is_taken_is_a_settings_error() -> None:
    """The message names the setting and the address."""
    async with served() as server:
        other = WebServer(make_app(CollectorRegistry(), make_readiness(), admit_all))
        with pytest.raises(SettingsInvalid, match=f"http_listen: .*{server.address}"):
            await other.start(server.address)
        await other.stop()


async def test_after_stop_nothing_listens() -> None:
    """The port is closed and no task remains, also with a client that keeps its connection open."""
    async with served() as server:
        host, port = server.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    writer.close()
    assert len(asyncio.all_tasks()) == 1
