"""The real sessions over a toy model, as the application puts them together, without a transport."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from tests.fakes import FakeClock, SlowOracle, ToyModel, character_tokenizer

from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.engine import Engine
from carousel.engine.scheduler import Bounds
from carousel.metrics import Metrics
from carousel.sessions.checks import Limits
from carousel.sessions.order import TurnOrder
from carousel.sessions.seats import Seats
from carousel.sessions.service import Sessions
from carousel.state.memory import Lifetime, SessionTable

LETTERS = "abcdefghijklmn\n"  # with <unk>, the 16 tokens of the toy model


@dataclass(frozen=True)
class Plan:
    """What a world is made of; everything has a small default."""

    model: ToyModel = field(default_factory=ToyModel)
    tokenizer: Tokenizer = field(default_factory=lambda: character_tokenizer(LETTERS))
    bounds: Bounds = Bounds()
    lifetime: Lifetime = Lifetime(idle_seconds=100, absolute_seconds=1000, max_sessions=100)
    limits: Limits = Limits(max_input_tokens=1000, max_generated_tokens=100_000)
    max_turns_per_session: int = 8


@dataclass(frozen=True)
class World:
    plan: Plan
    clock: FakeClock
    registry: CollectorRegistry
    metrics: Metrics
    engine: Engine
    table: SessionTable
    seats: Seats
    sessions: Sessions
    manifest: Manifest

    @property
    def oracle(self) -> SlowOracle:
        return SlowOracle(self.plan.model)

    @property
    def is_idle(self) -> bool:
        """Whether no lane is busy and nothing waits."""
        return "(0 of" in repr(self.engine) and "0 queued" in repr(self.engine)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"carousel_{name}", labels) or 0


@contextlib.asynccontextmanager
async def running_world(plan: Plan | None = None) -> AsyncIterator[World]:
    plan = plan or Plan()
    registry = CollectorRegistry()
    clock, metrics = FakeClock(), Metrics(registry)
    engine = Engine(plan.model, 0, plan.bounds, metrics)
    table = SessionTable(plan.lifetime, clock, metrics)
    seats = Seats(engine, plan.tokenizer, table, TurnOrder(plan.max_turns_per_session))
    manifest = make_manifest(plan)
    await engine.start()
    sessions = Sessions(manifest, plan.tokenizer, engine, table, seats, plan.limits, metrics)
    try:
        yield World(plan, clock, registry, metrics, engine, table, seats, sessions, manifest)
    finally:
        await engine.stop()


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
