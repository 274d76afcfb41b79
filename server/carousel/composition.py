"""Builds all parts of a server, and connects them. Nothing runs yet."""

import asyncio
import importlib.metadata
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from carousel.audit import AuditLog
from carousel.bundle.manifest import Bundle, Manifest
from carousel.engine.engine import Engine
from carousel.engine.graph import Execution, available_providers
from carousel.engine.model import OnnxModel
from carousel.engine.scheduler import Bounds
from carousel.errors import SettingsInvalid
from carousel.identity.composition import Identity, make_identity
from carousel.loop_watch import LoopWatch
from carousel.metrics import Metrics
from carousel.quotas import Quotas
from carousel.readiness import Readiness, StoreHealth
from carousel.rpc import convert
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.server import ConnectionBounds, RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions.call_ends import CallEnds
from carousel.sessions.calls import Calls
from carousel.sessions.composition import SessionService, make_sessions
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.state.selection import make_store, store_limits
from carousel.state.store import SessionStore
from carousel.traces import NoTraces, Traces
from carousel.web.app import WebServer, make_app
from carousel.web.json_api.figures import TellFigures, read_figures

_HELD_BYTES = 2**26  # for the rows of sessions that streams hold


@dataclass(frozen=True, slots=True)
class Parts:
    """What `app.py` starts and stops."""

    manifest: Manifest
    provider: str
    registry: CollectorRegistry
    metrics: Metrics
    identity: Identity
    engine: Engine
    store: SessionStore
    sessions: SessionService
    health: StoreHealth
    readiness: Readiness
    ends: CallEnds
    calls: Calls
    rpc: RpcServer
    web: WebServer
    openai: WebServer | None  # where there is an address for it
    watch: LoopWatch


def compose(bundle_directory: Path, settings: Settings, *, of_all: TellFigures | None = None) -> Parts:
    """One of several workers, which share their ports, is given the figures of all. Raises CarouselError for what
    cannot be used."""
    registry = CollectorRegistry()
    metrics = _make_metrics(registry)
    _tell_limits(settings, metrics)
    bundle = Bundle.load(bundle_directory)
    manifest = bundle.manifest
    model = _load_model(bundle, settings, metrics)
    quotas = Quotas(settings.owner_limits, metrics.principal_used)
    identity = make_identity(settings, manifest.name, metrics.files_read, quotas)
    engine = _make_engine(model, manifest.start_id, settings, metrics, quotas)
    store = make_store(settings, quotas)
    sessions = make_sessions(settings, manifest, bundle.tokenizer, engine, store, metrics, owner_limits=quotas)
    health = StoreHealth(metrics.store_is_up)
    readiness = Readiness(health, needs_store=settings.unready_without_store)
    ends = _make_ends(settings, manifest.name, metrics)
    calls = Calls(StreamBounds.of(settings, quotas), identity.doorkeeper, metrics, health, code_of, ends, quotas)
    figures = of_all or partial(asyncio.to_thread, read_figures, registry)
    rpc = _make_rpc(sessions, manifest, model.provider, RpcCalls(calls), settings, shares_port=of_all is not None)
    return Parts(
        manifest=manifest,
        provider=model.provider,
        registry=registry,
        metrics=metrics,
        identity=identity,
        engine=engine,
        store=store,
        sessions=sessions,
        health=health,
        readiness=readiness,
        ends=ends,
        calls=calls,
        rpc=rpc,
        web=WebServer(make_app(registry, readiness, calls.admit)),
        openai=(
            _make_front(sessions, manifest, model.provider, calls, figures, settings)
            if settings.openai_listen
            else None
        ),
        watch=LoopWatch(metrics.loop_lagged, settings.slow_handler_seconds),
    )


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


def _make_engine(model: OnnxModel, start_id: int, settings: Settings, metrics: Metrics, quotas: Quotas) -> Engine:
    held_bytes = _HELD_BYTES if "cuda" not in settings.providers else 0  # not measured with cuda
    bounds = Bounds.of(settings, held_bytes, quotas)
    return Engine(model, start_id, bounds, metrics, settings.token_delay_seconds, quotas=quotas)


def _make_rpc(
    sessions: SessionService,
    manifest: Manifest,
    provider: str,
    calls: RpcCalls,
    settings: Settings,
    *,
    shares_port: bool,
) -> RpcServer:
    description = convert.from_manifest(manifest, provider, settings)
    language_model = LanguageModelServicer(sessions.turns, description, calls)
    life = SessionsServicer(sessions.turns, sessions.operations, sessions.inspection, calls)
    return RpcServer(language_model, life, calls.admit, ConnectionBounds.of(settings), shares_port=shares_port)


def _make_front(
    sessions: SessionService,
    manifest: Manifest,
    provider: str,
    calls: Calls,
    figures: TellFigures,
    settings: Settings,
) -> WebServer:
    from carousel.web.front import make_front  # servers without the address start sooner
    from carousel.web.json_api import shapes

    front = make_front(
        sessions,
        calls,
        figures,
        shapes.of_model(manifest, provider, settings),
        max_bytes=settings.max_message_bytes,
        hosts=settings.openai_hosts,
        started=int(time.time()),
        has_page=settings.page,
    )
    return WebServer(front)


def _make_ends(settings: Settings, model: str, metrics: Metrics) -> CallEnds:
    audit = AuditLog(settings.audit_log, metrics.audit_failed) if settings.audit_log else None
    return CallEnds(metrics, _make_traces(settings, model), audit)


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
