"""Composes the session service of one model. No other module does."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.engine import Engine
from carousel.metrics import Metrics
from carousel.sessions.access import SessionAccess
from carousel.sessions.carried import CarriedSequences
from carousel.sessions.carried_room import CARRIER_BYTES, CarriedRoom
from carousel.sessions.checks import Limits
from carousel.sessions.encoding import Encoder
from carousel.sessions.events import EventHub
from carousel.sessions.inspection import Inspection
from carousel.sessions.ledger import Ledger, Retention
from carousel.sessions.many import ManyBounds
from carousel.sessions.operations import SessionOperations
from carousel.sessions.order import TurnOrder
from carousel.sessions.recovery import recover
from carousel.sessions.resident import Kit
from carousel.sessions.residents import Residents
from carousel.sessions.sealing import Sealer
from carousel.sessions.sequence_source import SequenceSource
from carousel.sessions.service import Sessions
from carousel.settings import Settings
from carousel.shares import LimitsByOwner
from carousel.state.codec import SnapshotCodec
from carousel.state.store import SessionStore


@dataclass(frozen=True, slots=True)
class SessionService:
    """The parts that serve sessions. `turns`, `operations` and `inspection` are for transports, the rest for the
    composition root."""

    turns: Sessions
    operations: SessionOperations
    inspection: Inspection
    sequences: SequenceSource
    access: SessionAccess
    residents: Residents
    carried: CarriedSequences
    ledger: Ledger
    codec: SnapshotCodec
    sealer: Sealer
    store: SessionStore
    clock: Callable[[], float]

    @property
    def holders(self) -> Mapping[str, Residents]:
        """What holds sequences for streams, by name. Each must be run, and emptied at shutdown."""
        return {"residents": self.residents, "carried": self.carried.residents}

    async def recover(self) -> None:
        """Recovers turns after a crash. Runs first after the store's start. Raises StoreInvalid or StoreUnavailable."""
        await recover(self.store, self.ledger, self.clock())


def make_sessions(
    settings: Settings,
    manifest: Manifest,
    tokenizer: Tokenizer,
    engine: Engine,
    store: SessionStore,
    metrics: Metrics,
    *,
    clock: Callable[[], float] = time.time,
    room: CarriedRoom | None = None,
    owner_limits: LimitsByOwner | None = None,
) -> SessionService:
    """Makes the service. `room` replaces the settings' bound on what streams carry without a session, `owner_limits`
    those on owners."""
    ledger, order = Ledger(Retention.of(settings)), TurnOrder(settings.max_turns_per_session)
    codec = SnapshotCodec(manifest.state, manifest.digest, manifest.hidden_size)
    keys = [key.get_secret_value() for key in settings.seal_keys]
    sealer = Sealer(keys, manifest.digest, allows_replay=settings.seal_replay == "allow")
    snapshot_bytes, evicts = codec.max_bytes(settings.penalty_window), settings.when_full == "evict"

    def make_kit() -> Kit:  # called after the engine's start
        return Kit(engine.columns, ledger, codec, tokenizer, settings.penalty_window)

    residents = Residents(engine, make_kit, store, order, clock, is_enabled=evicts)
    room = room or CarriedRoom(settings.max_carried_bytes, snapshot_bytes + CARRIER_BYTES, evicts=evicts)
    carried = CarriedSequences(engine, make_kit, codec, room)
    access = SessionAccess(store, order, residents)
    operations = SessionOperations(
        access,
        store,
        residents,
        ledger,
        codec,
        sealer,
        EventHub(owner_limits or settings.owner_limits),
        metrics,
        clock,
        snapshot_bytes=snapshot_bytes,
        start=lambda: engine.start_snapshot,
    )
    sequences = SequenceSource(
        access,
        ledger,
        codec,
        sealer,
        tokenizer,
        clock,
        snapshot_bytes=snapshot_bytes,
        seal_seconds=settings.seal_seconds,
        start=lambda: engine.start_snapshot,
    )
    limits, many_bounds = Limits.of(settings), ManyBounds.of(settings)
    encoder = Encoder(tokenizer, limits, manifest.vocabulary_size)
    turns = Sessions(manifest, tokenizer, engine, sequences, residents, carried, limits, many_bounds, metrics, encoder)
    inspection = Inspection(
        manifest.state, tokenizer, encoder, engine, access, ledger, codec, is_allowed=settings.inspect
    )
    return SessionService(
        turns, operations, inspection, sequences, access, residents, carried, ledger, codec, sealer, store, clock
    )
