"""A plain model of sessions beside a server that has them: what each call must lead to, and how it is made.

The model knows tokens alone: a session is the list of ids that it consumed. What the server's sequences hold is
compared, bit for bit, with a slow recurrent net that is fed those lists one token at a time.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine
from tests.bounds import make_retention
from tests.fakes import FaultyStore, SlowOracle
from tests.worlds import Clock, World

from carousel.errors import (
    AnswerGone,
    InvalidRequest,
    PositionMismatch,
    PositionUnknown,
    SessionExpired,
    SessionNotFound,
)
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest, ScoringRequest, Standing
from carousel.state.store import Lifetimes, SessionStore
from carousel.turns import Sampling, SamplingOptions, Snapshot

Result = TypeVar("Result")
Ids = tuple[int, ...]
Answer = tuple[Any, Standing]

RETENTION = make_retention(max_turns=3, max_answers=2, max_answer_bytes=65_536)
LIFETIMES = Lifetimes(idle=100, absolute=300)


@dataclass(frozen=True)
class Asked:
    """A turn as a caller sends it."""

    kind: str
    ids: Ids
    seed: int


@dataclass
class Believed:
    """A session as the model has it."""

    ids: Ids
    created_at: float
    used_at: float
    boundaries: list[Ids] = field(default_factory=list)  # oldest first, the current one last
    marks: dict[str, Ids] = field(default_factory=dict)
    answers: dict[str, tuple[Asked, Answer]] = field(default_factory=dict)  # oldest first
    used: set[str] = field(default_factory=set)
    moves: dict[str, tuple[Point, Ids]] = field(default_factory=dict)  # rewinds by their request ids

    def move(self, ids: Ids, now: float) -> None:
        if ids != self.ids:
            self.boundaries = [*self.boundaries, ids][-RETENTION.max_turns - 1 :]
        self.ids, self.used_at = ids, now

    def remember(self, request_id: str, asked: Asked, answer: Answer) -> None:
        self.used.add(request_id)
        self.answers[request_id] = (asked, answer)
        for stale in list(self.answers)[: -RETENTION.max_answers]:
            del self.answers[stale]

    def go_back(self, ids: Ids, now: float) -> None:
        self.boundaries = [one for one in self.boundaries if len(one) < len(ids)] + [ids]
        self.ids, self.used_at = ids, now

    @property
    def expires_at(self) -> float:
        return min(self.used_at + LIFETIMES.idle, self.created_at + LIFETIMES.absolute)


class ModelledSessions(RuleBasedStateMachine):
    """The sessions of one server and what the model believes of them."""

    make_store: Callable[[Clock], SessionStore]
    has_clock: bool  # whether the test can turn it

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.live: dict[str, Believed] = {}
        self.ended: dict[str, type[Exception]] = {}
        self.sealed: list[tuple[bytes, Ids, float]] = []
        self.snapshots: dict[Ids, Snapshot] = {}
        self.num_requests = 0
        self.world: World
        self.oracle: SlowOracle
        self.faulty: FaultyStore

    def make_faulty(self, clock: Clock) -> SessionStore:
        self.faulty = FaultyStore(type(self).make_store(clock))
        return self.faulty

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    # The model

    def at(self, ids: Ids) -> Snapshot:
        if ids not in self.snapshots:
            self.snapshots[ids] = self.oracle.feed(self.at(ids[:-1]), ids[-1:])
        return self.snapshots[ids]

    def is_live(self, name: str) -> bool:
        """Says whether the session lives, and notes when it has expired."""
        if name in self.live and self.live[name].expires_at <= self.world.clock.now:
            del self.live[name]
            self.ended[name] = SessionExpired
        return name in self.live

    def ending(self, name: str) -> type[Exception] | None:
        return None if self.is_live(name) else self.ended.get(name, SessionNotFound)

    def unknown(self, ids: Ids | None) -> type[Exception] | None:
        return PositionUnknown if ids is None else None

    def note_new(self, name: str, ids: Ids) -> None:
        now = self.world.clock.now
        self.live[name] = Believed(ids, now, now, [ids])

    def caller(self, name: str, request_id: str, expected: str | None) -> Caller:
        position = len(self.live[name].ids) if self.is_live(name) else 0
        return Caller("ann", name, b"", request_id, {None: None, "right": position, "wrong": position + 1}[expected])

    def new_id(self) -> str:
        self.num_requests += 1
        return f"new-{self.num_requests}"

    def expect(self, name: str, asked: Asked, caller: Caller) -> type[Exception] | None:
        if error := self.ending(name):
            return error
        believed = self.live[name]
        if caller.request_id in believed.answers:
            return None if believed.answers[caller.request_id][0] == asked else InvalidRequest
        if caller.request_id in believed.moves:
            return InvalidRequest
        if caller.request_id in believed.used:
            return AnswerGone
        is_wrong = caller.expected_position not in (None, len(believed.ids))
        return PositionMismatch if is_wrong else None

    def draw_point(self, name: str, data: some.DataObject) -> tuple[Point, Ids | None]:
        """Draws a point and the ids that led there; None if it is not retained."""
        if not self.is_live(name):
            return Point(), ()
        believed = self.live[name]
        points: list[tuple[Point, Ids | None]] = [(Point(len(ids)), ids) for ids in believed.boundaries]
        points += [(Point(mark=mark), ids) for mark, ids in believed.marks.items()]
        points += [(Point(), believed.ids), (Point(10_000), None), (Point(mark="x"), None)]
        return points[data.draw(some.integers(0, len(points) - 1))]

    def check_turn(self, name: str, asked: Asked, caller: Caller, *, is_repeat: bool | None = False) -> None:
        """Sends the turn; the answer is right, and the model follows. None: it may or may not be a repeat."""
        content, standing = self.run(self.send(asked, caller))
        believed = self.live[name]
        if caller.request_id in believed.answers:
            recorded = believed.answers[caller.request_id][1]
            durable = min(recorded[1].durable_position, len(believed.ids))
            assert repr(content) == repr(recorded[0])
            assert standing == replace(recorded[1], is_replay=True, durable_position=durable)
            return
        assert is_repeat is None or standing.is_replay == is_repeat
        ids = (*believed.ids, *asked.ids)
        if asked.kind == "generate":
            sampling = Sampling(seed=asked.seed, repetition_penalty=1.3)
            expected, _ = self.oracle.sample(self.at(believed.ids), asked.ids, 3, sampling)
            assert [token.id for token in content[0]] == expected
            ids += tuple(expected)
        elif asked.kind == "score":
            assert [token.id for token in content[0]] == list(asked.ids)
        else:
            assert content.candidates[0].id == int(self.oracle.logits(self.at(ids)).argmax())
        assert standing.position == len(ids)
        believed.move(ids, self.world.clock.now)
        if caller.request_id:
            believed.remember(caller.request_id, asked, (content, replace(standing, is_replay=False)))

    # How the calls are made

    async def send(self, asked: Asked, caller: Caller) -> Answer:
        """Returns the content of the answer, however it was cut into pieces, and where the sequence stands."""
        if asked.kind == "predict":
            prediction = await self.world.sessions.predict(caller, PredictionRequest(asked.ids, 3))
            return replace(prediction, standing=Standing(0, 0)), prediction.standing
        if asked.kind == "score":
            rated = [piece async for piece in self.world.sessions.score(caller, ScoringRequest(asked.ids))]
            totals = rated[-1].totals
            assert totals is not None
            tokens = tuple(token for piece in rated for token in piece.tokens)
            return (tokens, replace(totals, standing=Standing(0, 0))), totals.standing
        options = SamplingOptions(seed=asked.seed, repetition_penalty=1.3)
        request = GenerationRequest(asked.ids, options, 3, num_log_probabilities=2)
        pieces = [piece async for piece in self.world.sessions.generate(caller, request)]
        end = pieces[-1].end
        assert end is not None
        generated = tuple(token for piece in pieces for token in piece.tokens)
        text = "".join(piece.text for piece in pieces)
        return (generated, text, replace(end, standing=Standing(0, 0))), end.standing

    async def cancel_after(self, num_steps: int, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        for _ in range(num_steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def run(self, work: Awaitable[Result]) -> Result:
        async def bounded() -> Result:
            return await asyncio.wait_for(work, 20)

        return self.runner.run(bounded())

    @contextlib.contextmanager
    def refused(self, error: type[Exception] | None) -> Any:
        """The block must raise the error when there is one, and must not otherwise."""
        with pytest.raises(error) if error is not None else contextlib.nullcontext():
            yield
