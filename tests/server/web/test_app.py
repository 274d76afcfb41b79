"""Operators read metrics and health over HTTP, on a port that the server says."""

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from carousel.errors import SettingsInvalid
from carousel.metrics import Metrics
from carousel.web.app import WebServer, make_app


@contextlib.asynccontextmanager
async def served(ready: asyncio.Event) -> AsyncIterator[WebServer]:
    registry = CollectorRegistry()
    Metrics(registry).session_created()
    server = WebServer(make_app(registry, ready.is_set))
    await server.start("127.0.0.1:0")
    try:
        yield server
    finally:
        await server.stop()


async def fetch(server: WebServer, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and body."""

    def get() -> tuple[int, str, str]:
        request = urllib.request.Request(f"http://{server.address}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()

    return await asyncio.to_thread(get)


async def test_metrics_are_served() -> None:
    """Plain text for whoever asks, OpenMetrics for whoever wants it."""
    async with served(asyncio.Event()) as server:
        status, kind, body = await fetch(server, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "carousel_sessions_created_total 1.0" in body
        _, kind, body = await fetch(server, "/metrics", "application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")


async def test_readiness_follows_the_server_and_liveness_does_not() -> None:
    """/readyz is 503 until ready; /healthz is 200 as soon as anything answers."""
    ready = asyncio.Event()
    async with served(ready) as server:
        assert [(await fetch(server, path))[0] for path in ("/healthz", "/readyz")] == [200, 503]
        ready.set()
        assert [(await fetch(server, path))[0] for path in ("/healthz", "/readyz")] == [200, 200]


async def test_other_paths_are_not_found() -> None:
    """Nothing else is there."""
    async with served(asyncio.Event()) as server:
        assert (await fetch(server, "/"))[0] == 404


async def test_a_port_that_is_taken_is_a_settings_error() -> None:
    """The message names the setting and the address."""
    async with served(asyncio.Event()) as server:
        other = WebServer(make_app(CollectorRegistry(), lambda: True))
        with pytest.raises(SettingsInvalid, match=f"http_listen: .*{server.address}"):
            await other.start(server.address)
        await other.stop()


async def test_after_stop_nothing_listens() -> None:
    """The port is closed and no task is left, also with a client that keeps its connection open."""
    async with served(asyncio.Event()) as server:
        host, port = server.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
    writer.close()
    assert len(asyncio.all_tasks()) == 1
