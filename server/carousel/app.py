"""The composition root: builds everything, runs it, and stops it in order. Read `serve` from top to bottom."""

import asyncio
import contextlib
import importlib.metadata
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from carousel import logs
from carousel.bundle.manifest import Bundle, Manifest
from carousel.engine.engine import Engine
from carousel.engine.graph import Execution, available_providers
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.errors import ModelFailed, SettingsInvalid
from carousel.identity.certificates import Certificate
from carousel.identity.composition import make_identity
from carousel.identity.watched_files import WatchedFiles
from carousel.loop_watch import LoopWatch
from carousel.metrics import Metrics
from carousel.readiness import Readiness, StoreHealth
from carousel.rpc import convert
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.server import ConnectionBounds, RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions.calls import Calls
from carousel.sessions.composition import SessionService, make_sessions
from carousel.sessions.streams import StreamBounds
from carousel.sessions.sweep import sweep
from carousel.settings import Settings
from carousel.signals import stop_signal
from carousel.state.selection import make_store, store_limits
from carousel.state.store import SessionStore
from carousel.tasks import running_task
from carousel.traces import NoTraces, Traces
from carousel.web.app import WebServer, make_app

_LAST_BYTES_SECONDS = 1.0
_HELD_BYTES = 2**26  # for the rows of sessions that streams hold


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready."""

    grpc_address: str
    http_address: str
    provider: str
    engine: Engine
    store: SessionStore


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
            await _until_stopped(stopped, server.engine)
            announce_drain(settings.drain_seconds)


@contextlib.asynccontextmanager
async def running(bundle_directory: Path, settings: Settings) -> AsyncIterator[Running]:
    """Runs a ready server during the block, and drains it at the end. Raises CarouselError when it cannot start."""
    log = structlog.get_logger("carousel.app")
    registry = CollectorRegistry()
    metrics = _make_metrics(registry)
    _tell_limits(settings, metrics)
    bundle = Bundle.load(bundle_directory)
    model = _load_model(bundle, settings, metrics)
    engine = _make_engine(model, bundle.manifest.start_id, settings, metrics)
    store = make_store(settings)
    sessions = make_sessions(settings, bundle.manifest, bundle.tokenizer, engine, store, metrics)
    identity = make_identity(settings, bundle.manifest.name, metrics.files_read)
    certificate = identity.certificate
    health = StoreHealth(metrics.store_is_up)
    readiness = Readiness(health, needs_store=settings.unready_without_store)
    traces = _make_traces(settings, bundle.manifest.name)
    calls = Calls(StreamBounds.of(settings), identity.doorkeeper, metrics, health, code_of, traces)
    rpc = _make_rpc(sessions, bundle.manifest, model.provider, RpcCalls(calls), settings)
    web = WebServer(make_app(registry, readiness, calls.admit))
    watch = LoopWatch(metrics.loop_lagged, settings.slow_handler_seconds)

    async def tell_health() -> None:
        await rpc.set_ready(is_ready=readiness.is_ready)

    async def after_sweep() -> None:
        await tell_health()
        await _tell_use(engine, store, certificate, metrics)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(traces.close)
        await stack.enter_async_context(running_task("loop_watch", watch.run, metrics.task_restarted))
        for name, watch_files in identity.watches(calls.check_again).items():
            await stack.enter_async_context(running_task(name, watch_files, metrics.task_restarted))
        await store.start(sessions.operations.tell)
        stack.push_async_callback(store.close)
        await sessions.recover()
        stack.callback(sessions.turns.close)
        stack.push_async_callback(engine.stop)
        await engine.start()
        await web.start(settings.http_listen, certificate if settings.encrypts_http else None)
        stack.push_async_callback(web.stop)
        await rpc.start(settings.listen, certificate)
        stack.push_async_callback(rpc.stop, _LAST_BYTES_SECONDS)
        sweeping = partial(sweep, sessions.operations, health, metrics, after_sweep)
        await stack.enter_async_context(running_task("sweep", sweeping, metrics.task_restarted))
        for name, holder in sessions.holders.items():
            stack.push_async_callback(holder.leave_all)
            await stack.enter_async_context(running_task(name, holder.run, metrics.task_restarted))
        readiness.is_serving = True
        await tell_health()
        log.info("ready", grpc=rpc.address, http=web.address, model=bundle.manifest.name, provider=model.provider)
        try:
            yield Running(rpc.address, web.address, model.provider, engine, store)
        finally:
            readiness.is_serving = False
            await tell_health()
            log.info("draining", seconds=settings.drain_seconds)
            metrics.drain_lasts_until(time.time() + settings.drain_seconds)
            await _drain(engine, calls, settings.drain_seconds)
    log.info("stopped")


async def _drain(engine: Engine, calls: Calls, seconds: float) -> None:
    """Gives running turns that long, and then open calls what is left of it."""
    started = time.monotonic()
    await engine.drain(seconds)
    await calls.finish(max(_LAST_BYTES_SECONDS, started + seconds - time.monotonic()))


async def _until_stopped(stopped: asyncio.Event, engine: Engine) -> None:
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


def _load_model(bundle: Bundle, settings: Settings, metrics: Metrics) -> OnnxModel:
    providers = tuple(available_providers(settings.providers))
    model = OnnxModel(bundle, Execution(providers, settings.num_threads))
    manifest = bundle.manifest
    metrics.model_info(
        name=manifest.name,
        digest=manifest.digest,
        cell=manifest.cell,
        precision=manifest.precision,
        provider=model.provider,
    )
    return model


def _make_engine(model: OnnxModel, start_id: int, settings: Settings, metrics: Metrics) -> Engine:
    held_bytes = _HELD_BYTES if "cuda" not in settings.providers else 0  # not measured with cuda
    return Engine(model, start_id, Bounds.of(settings, held_bytes), metrics, settings.token_delay_seconds)


def _make_rpc(
    sessions: SessionService, manifest: Manifest, provider: str, calls: RpcCalls, settings: Settings
) -> RpcServer:
    description = convert.from_manifest(manifest, provider, settings)
    language_model = LanguageModelServicer(sessions.turns, description, calls)
    life = SessionsServicer(sessions.turns, sessions.operations, calls)
    return RpcServer(language_model, life, calls.admit, ConnectionBounds.of(settings))


def _make_traces(settings: Settings, model: str) -> Traces:
    """Raises SettingsInvalid where traces are to go to a collector and the packages for that are missing."""
    if not settings.otlp_endpoint:
        return NoTraces()
    try:
        from carousel.open_telemetry import connect
    except ModuleNotFoundError as error:
        raise SettingsInvalid("otlp_endpoint needs more packages: pip install 'carousel-serving[otel]'") from error
    return connect(settings.otlp_endpoint, model, _version(), settings.trace_share)


def _version() -> str:
    return importlib.metadata.version("carousel-serving")


def _make_metrics(registry: CollectorRegistry) -> Metrics:
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    metrics = Metrics(registry)
    metrics.build_info(
        version=_version(),
        onnxruntime=OnnxModel.runtime_version,
    )
    return metrics


def _tell_limits(settings: Settings, metrics: Metrics) -> None:
    """Reports every limit to the metrics."""
    for name, value in (dict(settings) | store_limits(settings)).items():
        if name.startswith(("max_", "reserved_")) and value is not None:
            metrics.limit_is(name, value)


async def _tell_use(
    engine: Engine, store: SessionStore, certificate: WatchedFiles[Certificate] | None, metrics: Metrics
) -> None:
    """Reports what is in use, to compare with the limits. Calls and queued turns are reported as they come and go."""
    metrics.num_busy_lanes(engine.num_busy_lanes)
    num_bytes = await store.num_bytes()
    if num_bytes is not None:
        metrics.num_session_bytes(num_bytes)
    if certificate is not None:
        metrics.certificate_is_valid_until(certificate.current.valid_until)
