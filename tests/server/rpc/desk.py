"""The transport over a real port, with small stand-ins for what is below it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry
from tests.bounds import make_connection_bounds
from tests.fakes import character_tokenizer
from tests.worlds import LETTERS, Plan, make_manifest

from carousel.errors import ModelNotFound, SessionNotFound
from carousel.identity.doorkeeper import Doorkeeper
from carousel.metrics import Metrics
from carousel.readiness import StoreHealth
from carousel.rpc import convert
from carousel.rpc.calls import RpcCalls
from carousel.rpc.errors import code_of
from carousel.rpc.server import RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.sessions.calls import Calls
from carousel.sessions.carried_room import CarriedRoom
from carousel.sessions.checks import Limits
from carousel.sessions.conversation import Conversation
from carousel.sessions.events import EventHub
from carousel.sessions.gate import Gate
from carousel.sessions.inspection import Inspected, InspectionRequest
from carousel.sessions.many import Many, ManyBounds
from carousel.sessions.messages import Format
from carousel.sessions.operations import History, Point
from carousel.sessions.pages import Page, read_page
from carousel.sessions.requests import (
    Caller,
    GenerationEnd,
    GenerationPiece,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoreTotals,
    ScoringPiece,
    ScoringRequest,
    Standing,
)
from carousel.sessions.resident import Plain
from carousel.sessions.streams import StreamBounds
from carousel.settings import Settings
from carousel.shares import OwnerLimits, Shares
from carousel.state.store import Row
from carousel.turns import Candidate, FinishReason, Generated
from carousel.v1 import language_model_pb2_grpc, sessions_pb2_grpc

MAX_MESSAGE_BYTES = 200_000


class FakeSessions:
    """Answers at once, except a generation of more than 1,000 tokens, which is one token and never ends. Every method
    raises `raises` instead if it is set; `seen` has the requests."""

    def __init__(self, limits: Limits) -> None:
        self.manifest = make_manifest(Plan())
        self.limits = limits
        self.tokenizer = character_tokenizer(LETTERS)
        self.raises: Exception | None = None
        self.seen: list[Any] = []
        self.num_running = 0
        self.may_answer = asyncio.Event()  # a prediction
        self.may_answer.set()

    def check_model(self, model: str) -> None:
        if model not in ("", "toy"):
            raise ModelNotFound("there is no such model")

    def _note(self, *asked: Any) -> None:
        self.seen.append(asked)
        if self.raises is not None:
            raise self.raises

    async def generate(self, caller: Caller, request: GenerationRequest) -> AsyncGenerator[GenerationPiece]:
        self._note(caller, request)
        self.num_running += 1
        try:
            if request.max_tokens > 1000:
                yield GenerationPiece((Generated(1),), "a")
                await asyncio.Event().wait()
            end = GenerationEnd(FinishReason.LENGTH, "", Standing(1, 1), 0, request.max_tokens, 1)
            yield GenerationPiece((Generated(1),) * request.max_tokens, "a" * request.max_tokens, end)
        finally:
            self.num_running -= 1

    @contextlib.asynccontextmanager
    async def conversing(self, owner: str) -> AsyncIterator[Conversation]:
        yield Conversation(self, NoResidents(), NoResidents(), owner, self.tokenizer.size)  # type: ignore[arg-type]

    def converse_many(self, owner: str, format: Format, *told: Any) -> Many:
        return Many(format, _converse_with_nobody, ManyBounds(9, 9, 99), owner, Gate(), Shares(), *told)

    async def predict(self, caller: Caller, request: PredictionRequest) -> Prediction:
        self._note(caller, request)
        return Prediction((Candidate(1, -0.5),), (), Standing(1, 1))

    async def predict_unkept(
        self, start: Any, request: PredictionRequest, caller: Caller
    ) -> tuple[Prediction, list[Caller]]:
        """Answers with a sequence that is the list of those who carried it on."""
        self._note(caller, request)
        await self.may_answer.wait()
        carried = [*(start or []), caller]
        return Prediction((Candidate(1, -0.5),), (), Standing(len(carried), 0)), carried

    async def score(self, caller: Caller, request: ScoringRequest) -> AsyncGenerator[ScoringPiece]:
        self._note(caller, request)
        yield ScoringPiece((), ScoreTotals(0, 0.0, 0, Standing(1, 1)))

    async def tokenize(self, owner: str, text: str) -> tuple[int, ...]:
        self._note(owner, text)
        return tuple(self.tokenizer.encode(text))

    async def detokenize(self, owner: str, ids: Sequence[int]) -> str:
        self._note(owner, tuple(ids))
        return self.tokenizer.decode(ids)


def _converse_with_nobody() -> Conversation:
    raise AssertionError("nothing is asked")


class FakeInspection:
    """Shows one moment. `seen` is as above."""

    layout = Plan().model.layout

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def inspect(self, caller: Caller, request: InspectionRequest) -> AsyncGenerator[Inspected]:
        self.seen.append((caller, request))
        yield Inspected(0, ())


class NoResidents:
    """No stream holds anything, neither sessions nor what it carries."""

    is_enabled = False

    @property
    def residents(self) -> "NoResidents":
        return self

    @property
    def room(self) -> CarriedRoom:
        return CarriedRoom(2**20, 1, evicts=True)

    async def make_room(self, owner: str) -> None:
        """Says that there is enough room."""

    async def move_in(self, key: tuple[str, str], plain: Plain) -> tuple[None, None]:
        return None, None


class FakeOperations:
    """Rows by owner and id. `raises` and `seen` are as above."""

    def __init__(self) -> None:
        self.watch = EventHub(OwnerLimits(max_watches=2)).watch
        self.rows: dict[tuple[str, str], Row] = {}
        self.raises: Exception | None = None
        self.seen: list[Any] = []

    def _find(self, owner: str, session_id: str, *asked: Any) -> Row:
        self.seen.append((owner, session_id, *asked))
        if self.raises is not None:
            raise self.raises
        if (owner, session_id) not in self.rows:
            raise SessionNotFound("there is no such session")
        return self.rows[owner, session_id]

    def durable_position(self, row: Row) -> int:
        return row.position

    async def create(self, owner: str, session_id: str, snapshot: Any = b"", request_id: str = "") -> Row:
        row = Row(session_id or "made", owner, 1, 0, 0, 1e9 + len(self.rows), 1e9, 2e9)
        self.rows[owner, row.id] = row
        return self._find(owner, row.id, snapshot, request_id)

    async def get(self, owner: str, session_id: str) -> Row:
        return self._find(owner, session_id)

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> Sequence[Row]:
        self.seen.append((owner, after, count))
        if self.raises is not None:
            raise self.raises
        found = sorted((row.created_at, row.id) for row in self.rows.values() if row.owner == owner)
        return [self.rows[owner, name] for moment, name in found if (moment, name) > after][:count]

    async def list_page(self, owner: str, size: int, token: str) -> Page:
        return await read_page(partial(self.list_owned, owner), size, token)

    async def delete(self, owner: str, session_id: str, request_id: str = "") -> None:
        self._find(owner, session_id, request_id)

    async def fork(
        self, owner: str, session_id: str, point: Point, new_ids: Sequence[str], count: int, request_id: str = ""
    ) -> list[Row]:
        row = self._find(owner, session_id, point, tuple(new_ids), count, request_id)
        return [replace(row, id=one) for one in new_ids]

    async def rewind(
        self, owner: str, session_id: str, point: Point, expected_position: int | None, request_id: str = ""
    ) -> Row:
        return self._find(owner, session_id, point, expected_position, request_id)

    async def mark(self, owner: str, session_id: str, name: str, request_id: str = "") -> Row:
        return self._find(owner, session_id, name, request_id)

    async def history(self, owner: str, session_id: str) -> History:
        return History(self._find(owner, session_id), (0,), {})

    async def export(self, owner: str, session_id: str, point: Point, ttl_seconds: float) -> tuple[bytes, int]:
        self._find(owner, session_id, point, ttl_seconds)
        return b"sealed", 1

    async def import_state(self, owner: str, blob: bytes, session_id: str, request_id: str = "") -> Row:
        return await self.create(owner, session_id, blob, request_id)


@dataclass
class Desk:
    """A served stand-in with a client's stubs, which have no types."""

    sessions: FakeSessions
    operations: FakeOperations
    inspection: FakeInspection
    calls: Calls
    health: StoreHealth
    server: RpcServer
    registry: CollectorRegistry
    channel: Any
    model: Any = field(init=False)
    life: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = language_model_pb2_grpc.LanguageModelStub(self.channel)
        self.life = sessions_pb2_grpc.SessionsStub(self.channel)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"carousel_{name}", labels) or 0


@contextlib.asynccontextmanager
async def open_desk(
    streams: StreamBounds | None = None,
    *,
    owner: str = "",
    doorkeeper: Doorkeeper | None = None,
    keepalive_seconds: float = 20.0,
    streams_of_a_connection: int = 2**20,
    **limits: int,
) -> AsyncIterator[Desk]:
    """Serves the stand-ins. `limits` are the settings that GetModel tells."""
    settings = Settings(**limits)
    sessions, operations, registry = FakeSessions(Limits.of(settings)), FakeOperations(), CollectorRegistry()
    inspection, metrics = FakeInspection(), Metrics(registry)
    health = StoreHealth(metrics.store_is_up)
    calls = Calls(streams or StreamBounds(100), doorkeeper or Doorkeeper(owner), metrics, health, code_of)
    model = convert.from_manifest(sessions.manifest, "cpu", settings)
    rpc_calls = RpcCalls(calls)
    services = (
        LanguageModelServicer(sessions, model, rpc_calls),  # type: ignore[arg-type]
        SessionsServicer(sessions, operations, inspection, rpc_calls),  # type: ignore[arg-type]
    )
    bounds = make_connection_bounds(
        MAX_MESSAGE_BYTES,
        max_streams=streams_of_a_connection,
        keepalive_seconds=keepalive_seconds,
        keepalive_timeout_seconds=keepalive_seconds,
    )
    server = RpcServer(*services, rpc_calls.admit, bounds)
    await server.start("127.0.0.1:0")
    await server.set_ready(is_ready=True)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Desk(sessions, operations, inspection, calls, health, server, registry, channel)
    finally:
        await server.stop(0)
