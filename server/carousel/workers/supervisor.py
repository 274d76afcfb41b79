"""The supervisor of several workers on the same ports: read `supervise` from top to bottom.

It holds the callers' ports, the HTTP address and the workers. It serves no model and sees no call. When it dies,
however it does, the workers die with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Metric

from carousel import logs
from carousel.identity.composition import make_identity
from carousel.readiness import StoreHealth
from carousel.records import record
from carousel.rpc.errors import code_of
from carousel.sessions.calls import Calls
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.signals import stop_signal
from carousel.tasks import running_task
from carousel.web.app import WebServer, make_app
from carousel.workers.crew import Collapse, Crew
from carousel.workers.division import divide
from carousel.workers.figures import Figures
from carousel.workers.process import Orders
from carousel.workers.reservation import reserved

_LAST_SECONDS = 5.0  # for a worker to end after its drain
_COLLECT_SECONDS = 10.0


@record(frozen=True, slots=True)
class Served:
    """The server is ready. Addresses are host:port."""

    grpc_address: str
    http_address: str
    provider: str
    openai_url: str  # empty where there is none
    page_url: str
    num_workers: int


async def supervise(
    bundle: Path,
    settings: Settings,
    overrides: Mapping[str, str],
    announce: Callable[[Served], None],
    announce_drain: Callable[[float], None],
) -> Collapse:
    """Serves with `settings.workers` processes until SIGTERM or SIGINT, then drains them. A second signal kills all.
    `overrides` are the settings that the environment does not have. Returns the exit code, and why if it is not 0.
    Raises SettingsInvalid when it cannot start."""
    logs.watch_loop(asyncio.get_running_loop())
    log = structlog.get_logger("carousel.workers")
    with stop_signal() as stopped, reserved(settings.listen) as address, _reserved_web(settings) as web_address:
        figures = Figures(settings.workers)
        addresses = {"listen": address, "openai_listen": web_address}
        orders = Orders(bundle, {**overrides, **divide(settings), **addresses})
        crew = Crew(orders, settings.workers, figures)
        async with _serving_http(settings, crew, figures) as http_address:
            crew.start()
            if await _either(crew, stopped, crew.have_started):
                first = next((worker.provider for worker in crew.workers if worker is not None), "")
                announce(Served(address, http_address, first, *settings.urls_of(web_address), settings.workers))
                log.info("ready", grpc=address, http=http_address, workers=settings.workers)
                await _either(crew, stopped, stopped)
            if stopped.is_set():
                announce_drain(settings.drain_seconds)
            log.info("draining", seconds=settings.drain_seconds)
            code = await crew.drain(settings.drain_seconds + _LAST_SECONDS)
    log.info("stopped")
    return crew.collapse.result() if crew.collapse.done() else Collapse(code, "a worker did not drain" if code else "")


def _reserved_web(settings: Settings) -> contextlib.AbstractContextManager[str]:
    if settings.openai_listen:
        return reserved(settings.openai_listen, "openai_listen")
    return contextlib.nullcontext("")


async def _either(crew: Crew, stopped: asyncio.Event, event: asyncio.Event) -> bool:
    """Waits for the event, for a stop or for a collapse. Returns whether it was the event."""
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(one.wait()) for one in {stopped, event}]
    await asyncio.wait([*waits, crew.collapse], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return event.is_set() and not stopped.is_set() and not crew.collapse.done()


@contextlib.asynccontextmanager
async def _serving_http(settings: Settings, crew: Crew, figures: Figures) -> AsyncIterator[str]:
    """Serves /metrics, /healthz and /readyz of all; the same code as a single server's decides who may ask. Yields the
    address."""
    metrics = figures.metrics
    identity = make_identity(settings, "", metrics.files_read)
    health = StoreHealth(metrics.store_is_up)
    calls = Calls(StreamBounds.of(settings), identity.doorkeeper, metrics, health, code_of)
    web = WebServer(make_app(_Page(crew, figures), crew, calls.admit))
    async with contextlib.AsyncExitStack() as stack:
        for name, watch in identity.watches(calls.check_again).items():
            await stack.enter_async_context(running_task(name, watch, metrics.task_restarted))
        await web.start(settings.http_listen, identity.certificate if settings.encrypts_http else None)
        stack.push_async_callback(web.stop)
        yield web.address


class _Page:
    """A Collector. Its `collect` runs in a thread beside the event loop, which asks the workers meanwhile."""

    def __init__(self, crew: Crew, figures: Figures) -> None:
        self._crew = crew
        self._figures = figures
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        asking = self._figures.collect(self._crew.workers)
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result(_COLLECT_SECONDS).collect()
