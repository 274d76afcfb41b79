"""Runs a server from its parts, and stops it in order. Read `serve` from top to bottom."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from carousel import logs
from carousel.composition import Parts, compose
from carousel.engine.engine import Engine
from carousel.errors import ModelFailed
from carousel.readiness import Readiness
from carousel.sessions.calls import Calls
from carousel.sessions.sweep import sweep
from carousel.settings import Settings
from carousel.signals import stop_signal
from carousel.state.store import SessionStore
from carousel.tasks import running_task
from carousel.web.json_api.figures import TellFigures

_LAST_BYTES_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready."""

    grpc_address: str
    http_address: str
    provider: str
    engine: Engine
    store: SessionStore
    registry: CollectorRegistry
    readiness: Readiness
    openai_url: str  # empty where there is none
    page_url: str
    openai_address: str = ""


async def serve(
    bundle_directory: Path,
    settings: Settings,
    announce: Callable[[Running], None],
    announce_drain: Callable[[float], None],
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. A second signal kills. Calls `announce` once, when ready, and
    `announce_drain` at the first signal, with the seconds that running turns have."""
    logs.watch_loop(asyncio.get_running_loop())
    with stop_signal() as stopped:
        async with running(bundle_directory, settings) as server:
            announce(server)
            await until_stopped(stopped, server.engine)
            announce_drain(settings.drain_seconds)


@contextlib.asynccontextmanager
async def running(
    bundle_directory: Path, settings: Settings, *, of_all: TellFigures | None = None
) -> AsyncIterator[Running]:
    """Runs a ready server during the block, and drains it at the end. One of several workers is given `of_all`, the
    figures of all: it shares its ports with the others, and leaves the address of operators to its supervisor. Raises
    CarouselError when it cannot start."""
    log = structlog.get_logger("carousel.app")
    is_worker = of_all is not None
    parts = compose(bundle_directory, settings, of_all=of_all)
    metrics, sessions, calls, readiness = parts.metrics, parts.sessions, parts.calls, parts.readiness

    async def tell_health() -> None:
        await parts.rpc.set_ready(is_ready=readiness.is_ready)

    async def after_sweep() -> None:
        await tell_health()
        await _tell_use(parts)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(parts.ends.close)
        await stack.enter_async_context(running_task("loop_watch", parts.watch.run, metrics.task_restarted))
        for name, watch_files in parts.identity.watches(calls.check_again).items():
            await stack.enter_async_context(running_task(name, watch_files, metrics.task_restarted))
        await parts.store.start(sessions.operations.tell)
        stack.push_async_callback(parts.store.close)
        await sessions.recover()
        stack.callback(sessions.turns.close)
        stack.push_async_callback(parts.engine.stop)
        await parts.engine.start()
        addresses = await _listen(stack, parts, settings, is_worker=is_worker)
        sweeping = partial(sweep, sessions.operations, parts.health, metrics, after_sweep)
        await stack.enter_async_context(running_task("sweep", sweeping, metrics.task_restarted))
        for name, holder in sessions.holders.items():
            stack.push_async_callback(holder.leave_all)
            await stack.enter_async_context(running_task(name, holder.run, metrics.task_restarted))
        readiness.is_serving = True
        await tell_health()
        log.info("ready", model=parts.manifest.name, provider=parts.provider, **addresses)
        openai_url, page_url = settings.urls_of(addresses["openai"])
        try:
            yield Running(
                addresses["grpc"],
                addresses["http"],
                parts.provider,
                parts.engine,
                parts.store,
                parts.registry,
                readiness,
                openai_url,
                page_url,
                addresses["openai"],
            )
        finally:
            readiness.is_serving = False
            await tell_health()
            log.info("draining", seconds=settings.drain_seconds)
            metrics.drain_lasts_until(time.time() + settings.drain_seconds)
            await _drain(parts.engine, calls, settings.drain_seconds)
    log.info("stopped")


async def _listen(
    stack: contextlib.AsyncExitStack, parts: Parts, settings: Settings, *, is_worker: bool
) -> dict[str, str]:
    """Opens all addresses until the stack closes. Returns them by name; empty where there is none."""
    rpc, web, openai, certificate = parts.rpc, parts.web, parts.openai, parts.identity.certificate
    stack.push_async_callback(web.stop)
    if not is_worker:
        await web.start(settings.http_listen, certificate if settings.encrypts_http else None)
    if openai is not None:
        stack.push_async_callback(openai.stop)
        await openai.start(
            settings.openai_listen, certificate, "openai_listen", for_callers=True, shares_port=is_worker
        )
    await rpc.start(settings.listen, certificate)
    stack.push_async_callback(rpc.stop, _LAST_BYTES_SECONDS)
    return {"grpc": rpc.address, "http": web.address, "openai": "" if openai is None else openai.address}


async def _drain(engine: Engine, calls: Calls, seconds: float) -> None:
    """Gives running turns that long, and then open calls what is left of it."""
    started = time.monotonic()
    await engine.drain(seconds)
    await calls.finish(max(_LAST_BYTES_SECONDS, started + seconds - time.monotonic()))


async def until_stopped(stopped: asyncio.Event, engine: Engine) -> None:
    """Waits for a signal. Raises ModelFailed when the engine breaks first: a restart is better than endless refusal."""
    waits = [asyncio.create_task(stopped.wait()), asyncio.create_task(engine.until_broken())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            raise ModelFailed("the engine failed") from waits[1].exception()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _tell_use(parts: Parts) -> None:
    """Reports what is in use, to compare with the limits. Calls and queued turns are reported as they come and go."""
    parts.metrics.num_busy_lanes(parts.engine.num_busy_lanes)
    num_bytes = await parts.store.num_bytes()
    if num_bytes is not None:
        parts.metrics.num_session_bytes(num_bytes)
    if parts.identity.certificate is not None:
        parts.metrics.certificate_is_valid_until(parts.identity.certificate.current.valid_until)
