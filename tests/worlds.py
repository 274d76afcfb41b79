"""The real sessions over a toy model, as the application puts them together, without a transport."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretBytes
from tests.bounds import make_bounds, make_limits, make_retention
from tests.fakes import FakeClock, SlowOracle, ToyModel, character_tokenizer

from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.engine import Engine
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.sessions.access import SessionAccess
from carousel.sessions.carried import CarriedSequences
from carousel.sessions.carried_room import CarriedRoom
from carousel.sessions.checks import Limits
from carousel.sessions.composition import SessionService, make_sessions
from carousel.sessions.inspection import Inspection
from carousel.sessions.ledger import Ledger, Retention
from carousel.sessions.operations import SessionOperations
from carousel.sessions.residents import Residents
from carousel.sessions.sequence_source import SequenceSource
from carousel.sessions.service import Sessions
from carousel.settings import Settings
from carousel.state.codec import SnapshotCodec
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, Held, Lifetimes, Row, SessionStore
from carousel.turns import Snapshot

Clock = Callable[[], float]
KEY = bytes(range(32))
LIFETIMES = Lifetimes(idle=100, absolute=1000)
ROOMY = Capacity(100, 2**30, evicts=False)
LETTERS = "abcdefghijklmn\n"  # with <unk>, the 16 tokens of the toy model


@dataclass(frozen=True)
class Plan:
    """What a world is made of; everything has a small default."""

    model: ToyModel = field(default_factory=ToyModel)
    tokenizer: Tokenizer = field(default_factory=lambda: character_tokenizer(LETTERS))
    bounds: Bounds = make_bounds(max_held_bytes=2**20)
    retention: Retention = make_retention(max_turns=8, max_answers=4, max_answer_bytes=65_536)
    store: Callable[[Clock], SessionStore] = lambda clock: MemoryStore(ROOMY, LIFETIMES, clock=clock)
    now: float = 1_000_000.0
    seal_keys: tuple[bytes, ...] = (KEY,)
    replays_seals: bool = True
    limits: Limits = make_limits(max_input_tokens=1000, max_generated_tokens=100_000, max_answer_items=10**9)
    max_turns_per_session: int = 8
    holds_sessions: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)  # others, by name
    carried_room: CarriedRoom = field(default_factory=lambda: CarriedRoom(2**20, 2**10, evicts=True))


@dataclass(frozen=True)
class World:
    plan: Plan
    clock: FakeClock
    registry: CollectorRegistry
    metrics: Metrics
    engine: Engine
    store: SessionStore
    service: SessionService
    manifest: Manifest

    @property
    def operations(self) -> SessionOperations:
        return self.service.operations

    @property
    def inspection(self) -> Inspection:
        return self.service.inspection

    @property
    def sequences(self) -> SequenceSource:
        return self.service.sequences

    @property
    def sessions(self) -> Sessions:
        return self.service.turns

    @property
    def access(self) -> SessionAccess:
        return self.service.access

    @property
    def residents(self) -> Residents:
        return self.service.residents

    @property
    def carried(self) -> CarriedSequences:
        return self.service.carried

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    @property
    def codec(self) -> SnapshotCodec:
        return self.service.codec

    @property
    def oracle(self) -> SlowOracle:
        return SlowOracle(self.plan.model)

    @property
    def is_idle(self) -> bool:
        """Whether no lane is busy and nothing waits."""
        return "(0 of" in repr(self.engine) and "0 queued" in repr(self.engine)

    async def open(self, session_id: str = "s", owner: str = "ann") -> Row:
        """Creates a new session at the start."""
        return await self.operations.create(owner, session_id, self.engine.start_snapshot)

    async def hold(self, session_id: str = "s", owner: str = "ann") -> Held:
        """Returns what the store has of a session."""
        held = await self.store.acquire(owner, session_id)
        assert isinstance(held, Held)
        await self.store.release(held)
        return replace(held, epoch=0)

    async def snapshot(self, session_id: str = "s") -> Snapshot:
        """Returns the snapshot that the store has of a session."""
        return self.codec.decode(self.ledger.current(await self.hold(session_id)))

    def seal(self, snapshot: Snapshot, owner: str = "ann", seconds: float = 50) -> bytes:
        """Seals a state that the owner may bring for so long."""
        return self.service.sealer.seal(self.codec.encode(snapshot), owner, self.clock() + seconds)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"carousel_{name}", labels) or 0


@contextlib.asynccontextmanager
async def running_world(plan: Plan | None = None) -> AsyncIterator[World]:
    plan = plan or Plan()
    registry = CollectorRegistry()
    clock, metrics = FakeClock(plan.now), Metrics(registry)
    engine = Engine(plan.model, 0, plan.bounds, metrics)
    manifest = make_manifest(plan)
    store = plan.store(clock)
    service = make_service(plan, manifest, engine, store, clock, metrics)
    await store.start(service.operations.tell)
    await service.recover()
    await engine.start()
    try:
        yield World(plan, clock, registry, metrics, engine, store, service, manifest)
    finally:
        service.turns.close()
        for holder in service.holders.values():
            await holder.leave_all()
        await engine.stop()
        await store.close()


def make_service(
    plan: Plan, manifest: Manifest, engine: Engine, store: SessionStore, clock: FakeClock, metrics: Metrics
) -> SessionService:
    settings = _make_settings(plan)
    return make_sessions(
        settings, manifest, plan.tokenizer, engine, store, metrics, clock=clock, room=plan.carried_room
    )


def _make_settings(plan: Plan) -> Settings:
    """Makes unchecked settings, since a plan may be smaller than a server."""
    retention, limits = plan.retention, plan.limits
    settings = Settings.model_construct(
        retained_turns=retention.max_turns,
        retained_answers=retention.max_answers,
        max_answer_bytes=retention.max_answer_bytes,
        retained_request_ids=retention.max_request_ids,
        max_turns_per_session=plan.max_turns_per_session,
        penalty_window=plan.bounds.penalty_window,
        seal_keys=tuple(SecretBytes(key) for key in plan.seal_keys),
        seal_replay="allow" if plan.replays_seals else "refuse",
        seal_seconds=50,
        when_full="evict" if plan.holds_sessions else "refuse",
        max_watches_per_owner=10**6,
        max_input_tokens=limits.max_input_tokens,
        max_generated_tokens=limits.max_generated_tokens,
        max_input_bytes=limits.max_input_bytes,
        max_answer_items=limits.max_answer_items,
        max_stop_ids=limits.max_stop_ids,
    )
    return settings.model_copy(update=plan.settings)


def make_manifest(plan: Plan) -> Manifest:
    return Manifest(
        name="toy",
        cell="rnn",
        num_layers=1,
        hidden_size=plan.model.hidden_size,
        vocabulary_size=plan.model.vocabulary_size,
        num_parameters=99,
        precision="float32",
        tokenizer_kind=plan.tokenizer.kind,
        start_id=0,
        state=plan.model.layout,
        files={},
        training={"corpus": "none"},
    )
