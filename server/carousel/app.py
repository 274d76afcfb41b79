"""The composition root: builds everything, runs it, and takes it down in order. Read `serve` from top to bottom."""

import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from carousel.bundle.manifest import Bundle
from carousel.engine.engine import Engine
from carousel.engine.graph import Execution, available_providers
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.errors import ModelFailed, StoreUnavailable
from carousel.metrics import Metrics
from carousel.rpc import convert
from carousel.rpc.calls import Calls
from carousel.rpc.server import RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions.checks import Limits
from carousel.sessions.events import EventHub
from carousel.sessions.ledger import Ledger, Retention
from carousel.sessions.lives import Lives
from carousel.sessions.order import TurnOrder
from carousel.sessions.sealing import Sealer
from carousel.sessions.seats import Seats
from carousel.sessions.service import Sessions
from carousel.settings import Settings
from carousel.state.codec import SnapshotCodec
from carousel.state.memory import Capacity, MemoryStore
from carousel.state.store import SessionStore
from carousel.web.app import WebServer, make_app

_SWEEP_SECONDS = 1.0
_LAST_BYTES_SECONDS = 1.0
_MEMORY_BYTES, _DISK_BYTES = 2**31, 2**40


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready."""

    grpc_address: str
    http_address: str
    provider: str
    engine: Engine
    store: SessionStore


async def serve(bundle_directory: Path, settings: Settings, announce: Callable[[Running], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `announce` is called once, when ready. A second signal kills."""
    with _stop_signal() as stopped:
        async with running(bundle_directory, settings) as server:
            announce(server)
            await _until_stopped(stopped, server.engine)


@contextlib.asynccontextmanager
async def running(bundle_directory: Path, settings: Settings) -> AsyncIterator[Running]:
    """A ready server for as long as the block runs; leaving it drains. Raises CarouselError when it cannot start."""
    log = structlog.get_logger("carousel.app")
    registry = CollectorRegistry()
    metrics = _make_metrics(registry)
    bundle = Bundle.load(bundle_directory)
    model = _load_model(bundle, settings, metrics)
    engine = Engine(model, bundle.manifest.start_id, _bounds(settings), metrics, settings.token_delay_seconds)
    store = _make_store(settings)
    lives = make_lives(settings, bundle, store, metrics)
    seats = Seats(engine, bundle.tokenizer, lives, settings.seal_seconds)
    limits = Limits(settings.max_input_tokens, settings.max_generated_tokens)
    sessions = Sessions(bundle.manifest, bundle.tokenizer, engine, seats, limits, metrics)
    calls = Calls(settings.max_streams, settings.owner_metadata, metrics)
    description = convert.from_manifest(bundle.manifest, model.provider, settings)
    language_model = LanguageModelServicer(sessions, description, calls)
    servicer = SessionsServicer(sessions, lives, calls)
    rpc = RpcServer(language_model, servicer, max_message_bytes=settings.max_message_bytes)
    readiness = asyncio.Event()
    web = WebServer(make_app(registry, readiness.is_set))

    async with contextlib.AsyncExitStack() as stack:
        await store.start()
        stack.push_async_callback(store.close)
        stack.push_async_callback(engine.stop)
        await engine.start()
        await web.start(settings.http_listen)
        stack.push_async_callback(web.stop)
        await rpc.start(settings.listen)
        stack.push_async_callback(rpc.stop, _LAST_BYTES_SECONDS)
        stack.push_async_callback(_end_task, asyncio.create_task(_sweep(lives, metrics), name="sweep"))
        await rpc.set_ready(is_ready=True)
        readiness.set()
        log.info("ready", grpc=rpc.address, http=web.address, model=bundle.manifest.name, provider=model.provider)
        try:
            yield Running(rpc.address, web.address, model.provider, engine, store)
        finally:
            readiness.clear()
            await rpc.set_ready(is_ready=False)
            log.info("draining", seconds=settings.drain_seconds)
            started = time.monotonic()
            await engine.drain(settings.drain_seconds)
            await calls.finish(max(_LAST_BYTES_SECONDS, started + settings.drain_seconds - time.monotonic()))
    log.info("stopped")


def configure_logging(level: str) -> None:
    """JSON lines on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


async def _until_stopped(stopped: asyncio.Event, engine: Engine) -> None:
    """Raises ModelFailed when the engine breaks first: better to be restarted than to refuse for ever."""
    waits = [asyncio.create_task(stopped.wait()), asyncio.create_task(engine.until_broken())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            raise ModelFailed("the engine failed") from waits[1].exception()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


@contextlib.contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    """Set by the first SIGTERM or SIGINT; by then the second one has its default effect, at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


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


def _make_metrics(registry: CollectorRegistry) -> Metrics:
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    metrics = Metrics(registry)
    metrics.build_info(
        version=importlib.metadata.version("carousel-serving"),
        onnxruntime=OnnxModel.runtime_version,
    )
    return metrics


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        max_lanes=settings.max_lanes,
        max_queued_turns=settings.max_queued_turns,
        max_chunk_tokens=settings.max_chunk_tokens,
        max_prompt_tokens_per_step=settings.max_prompt_tokens_per_step,
        penalty_window=settings.penalty_window,
    )


def _make_store(settings: Settings) -> SessionStore:
    """Only the store that is used is imported."""
    is_memory = settings.store == "memory"
    max_bytes = settings.max_session_bytes or (_MEMORY_BYTES if is_memory else _DISK_BYTES)
    capacity = Capacity(settings.max_sessions, max_bytes, settings.when_full == "evict")
    if is_memory:
        return MemoryStore(capacity, Path(settings.memory_file) if settings.memory_file else None)
    if not settings.store.startswith("sqlite:"):
        from carousel.state.redis_store import RedisStore, Timing

        password = settings.store_password
        timing = Timing(lease=settings.lease_seconds)
        return RedisStore(settings.store, password=password.get_secret_value() if password else None, timing=timing)
    from carousel.state.sqlite_store import SqliteStore
    from carousel.state.write_behind import WriteBehind

    durable = SqliteStore(Path(settings.store.removeprefix("sqlite:")), capacity)
    return durable if settings.durability == "each_turn" else WriteBehind(durable, settings.flush_seconds)


def make_lives(settings: Settings, bundle: Bundle, store: SessionStore, metrics: Metrics) -> Lives:
    manifest = bundle.manifest
    retention = Retention(
        max_turns=settings.retained_turns,
        max_answers=settings.retained_answers,
        max_answer_bytes=settings.max_answer_bytes,
        idle_seconds=settings.session_idle_seconds,
        lifetime_seconds=settings.session_lifetime_seconds,
    )
    return Lives(
        store,
        Ledger(retention),
        SnapshotCodec(manifest.state, manifest.digest, manifest.hidden_size),
        Sealer([key.get_secret_value() for key in settings.seal_keys], manifest.digest),
        TurnOrder(settings.max_turns_per_session),
        EventHub(),
        time.time,
        metrics,
        replays_seals=settings.seal_replay == "allow",
    )


async def _sweep(lives: Lives, metrics: Metrics) -> None:
    """End sessions whose time has come also when nobody asks for anything."""
    log = structlog.get_logger("carousel.app")
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await lives.expire()
            metrics.num_live_sessions(await lives.store.num_live())
        except StoreUnavailable as error:
            log.warning("store unavailable", reason=str(error))


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
