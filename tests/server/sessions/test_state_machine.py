"""Whatever callers do to sessions in whatever order, the sessions are what a plain model of them says.

The model knows tokens alone: a session is the list of ids that it consumed. What the server's sequences hold is
compared, bit for bit, with a slow recurrent net that is fed those lists one token at a time.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.bounds import make_retention
from tests.fakes import Fault, FaultyStore, ToyModel, same_snapshot
from tests.server.state.conftest import run_redis
from tests.worlds import Clock, Plan, World, running_world

from carousel.errors import (
    AnswerGone,
    InvalidRequest,
    PositionMismatch,
    PositionUnknown,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreUnavailable,
)
from carousel.sessions.operations import Point
from carousel.sessions.requests import (
    Caller,
    GenerationRequest,
    PredictionRequest,
    ScoringRequest,
    Standing,
)
from carousel.state.memory import MemoryStore
from carousel.state.redis_store import RedisStore
from carousel.state.redis_terms import Timing
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Lifetimes, SessionStore
from carousel.state.write_ahead import WriteAhead
from carousel.turns import Sampling, SamplingOptions, Snapshot

pytestmark = pytest.mark.slow

Result = TypeVar("Result")
Ids = tuple[int, ...]
Answer = tuple[Any, Standing]

RETENTION = make_retention(max_turns=3, max_answers=2, max_answer_bytes=65_536)
LIFETIMES = Lifetimes(idle=100, absolute=300)
WIDE = Capacity(1000, 2**30, evicts=False)
NAMES = some.sampled_from(["a", "b", "c"])
MARKS = some.sampled_from(["m", "n"])
INPUTS = some.lists(some.integers(0, 15), max_size=4).map(tuple)
REQUEST_IDS = some.sampled_from(["", "", "r1", "r2", "r3"])
EXPECTED = some.sampled_from([None, None, None, "right", "wrong"])
FAULTS = some.sampled_from([None, None, None, None, Fault.ACQUIRE, Fault.BEFORE_WRITE, Fault.AFTER_WRITE])
RARELY = some.sampled_from([False, False, False, True])
KINDS = some.sampled_from(["generate", "predict", "score"])


def _memory(_: Path, url: str, clock: Clock) -> SessionStore:
    return MemoryStore(WIDE, LIFETIMES, clock=clock)


def _sqlite(directory: Path, url: str, clock: Clock) -> SessionStore:
    return WriteAhead(SqliteStore(directory / "sessions.db", WIDE, LIFETIMES, clock=clock))


def _sqlite_uncached(directory: Path, url: str, clock: Clock) -> SessionStore:
    return WriteAhead(SqliteStore(directory / "sessions.db", WIDE, LIFETIMES, cache_bytes=0, clock=clock))


def _redis(_: Path, url: str, clock: Clock) -> SessionStore:
    """On the server that the test runs, emptied. Time passes there as it does everywhere."""
    subprocess.run(["redis-cli", "-u", url, "flushall"], check=True, stdout=subprocess.DEVNULL)
    return RedisStore(url, Lifetimes(idle=10_000, absolute=10_000), timing=Timing(lease=10.0))


STORES: dict[str, tuple[Callable[[Path, str, Clock], SessionStore], int]] = {  # and how many lives are drawn
    "memory": (_memory, 40),
    "sqlite": (_sqlite, 12),
    "sqlite, from disk": (_sqlite_uncached, 12),
    "redis": (_redis, 12),
}


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


class Sessions(RuleBasedStateMachine):
    """Callers of one server whose clock, faults and impatience are drawn."""

    make_store: Callable[[Clock], SessionStore]
    has_clock: bool  # that the test can turn

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
        self.faulty: FaultyStore

    @initialize()
    def start(self) -> None:
        plan = Plan(model=ToyModel(), retention=RETENTION, store=self.make_faulty, now=float(int(time.time())))
        self.world = self.run(self.stack.enter_async_context(running_world(plan)))
        self.oracle = self.world.oracle
        self.snapshots[()] = self.oracle.start()
        for name in ("a", "b"):
            self.create(name)

    def make_faulty(self, clock: Clock) -> SessionStore:
        self.faulty = FaultyStore(type(self).make_store(clock))
        return self.faulty

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    # What callers do

    @rule(name=NAMES, turns=some.lists(some.tuples(KINDS, INPUTS, REQUEST_IDS), min_size=2, max_size=6))
    def talk(self, name: str, turns: list[tuple[str, Ids, str]]) -> None:
        """A conversation, on a new session if there is none: what the other rules have a past from."""
        if not self.is_live(name):
            self.create(name)
        for kind, ids, request_id in turns:
            asked, caller = Asked(kind, ids, 0), self.caller(name, request_id, "right")
            with self.refused(self.expect(name, asked, caller)):
                self.check_turn(name, asked, caller)

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        """A free name is taken, another is refused."""
        with self.refused(SessionExists if self.is_live(name) else None):
            self.run(self.world.operations.create("ann", name, self.world.engine.start_snapshot))
            self.note_new(name, ())

    @rule(
        name=NAMES, kind=KINDS, ids=INPUTS, seed=some.integers(0, 3), request_id=REQUEST_IDS, expected=EXPECTED,
        fault=FAULTS,
    )  # fmt: skip
    def take_turn(
        self, name: str, kind: str, ids: Ids, seed: int, request_id: str, expected: str | None, fault: Fault | None
    ) -> None:
        """A turn: applied once and answered right, or repeated from its record, or refused without a trace; when the
        store fails, its repeat makes it so."""
        asked = Asked(kind, ids, seed)
        caller = self.caller(name, request_id, expected)
        error = self.expect(name, asked, caller)
        if fault is None or error is not None:
            with self.refused(error):
                self.check_turn(name, asked, caller)
            return
        caller = replace(caller, request_id=request_id or self.new_id())
        is_known = request_id in self.live[name].used
        self.faulty.faults[fault] = 1
        with contextlib.suppress(StoreUnavailable) if is_known else pytest.raises(StoreUnavailable):
            self.run(self.send(asked, caller))  # a known one is not written, and so may not meet the fault
        self.faulty.faults.clear()
        self.check_turn(name, asked, caller, is_repeat=fault is Fault.AFTER_WRITE)

    @rule(name=NAMES, data=some.data())
    def repeat(self, name: str, data: some.DataObject) -> None:
        """A request whose answer is retained gets it again, word for word, whatever it expects, and moves nothing."""
        if self.is_live(name) and self.live[name].answers:
            request_id = data.draw(some.sampled_from(sorted(self.live[name].answers)))
            asked, (content, standing) = self.live[name].answers[request_id]
            again = self.run(self.send(asked, Caller("ann", name, request_id=request_id, expected_position=0)))
            durable = min(standing.durable_position, len(self.live[name].ids))
            assert repr(again[0]) == repr(content)
            assert again[1] == replace(standing, is_replay=True, durable_position=durable)

    @rule(name=NAMES, kind=KINDS, ids=INPUTS, seed=some.integers(0, 3), num_steps=some.integers(0, 60))
    def give_up(self, name: str, kind: str, ids: Ids, seed: int, num_steps: int) -> None:
        """A turn that is cancelled anywhere is applied or not; its repeat applies it once."""
        asked, caller = Asked(kind, ids, seed), self.caller(name, self.new_id(), "right")
        self.run(self.cancel_after(num_steps, self.send(asked, caller)))
        with self.refused(self.expect(name, asked, caller)):
            self.check_turn(name, asked, caller, is_repeat=None)

    @rule(name=NAMES, new=NAMES, data=some.data())
    def fork(self, name: str, new: str, data: some.DataObject) -> None:
        """The new session stands at the point; the old one is as it was."""
        point, ids = self.draw_point(name, data)
        with self.refused(self.ending(name) or self.unknown(ids) or (SessionExists if self.is_live(new) else None)):
            self.run(self.world.operations.fork("ann", name, point, (new,), 0))
            self.note_new(new, ids or ())

    @rule(name=NAMES, data=some.data(), expected=EXPECTED, is_named=some.booleans())
    def rewind(self, name: str, data: some.DataObject, expected: str | None, is_named: bool) -> None:
        """Back, or ahead to a checkpoint; what came after is forgotten."""
        point, ids = self.draw_point(name, data)
        position = self.caller(name, "", expected).expected_position
        error = self.ending(name) or (PositionMismatch if expected == "wrong" else None) or self.unknown(ids)
        request_id = self.new_id() if is_named else ""
        with self.refused(error):
            row = self.run(self.world.operations.rewind("ann", name, point, position, request_id))
            assert ids is not None
            assert row.position == len(ids)
            self.live[name].go_back(ids, self.world.clock.now)
            if is_named and position is None:
                self.live[name].moves[request_id] = (point, ids)

    @rule(name=NAMES, data=some.data())
    def repeat_a_rewind(self, name: str, data: some.DataObject) -> None:
        """It says where it led, and undoes nothing that came since; another request under its id is refused."""
        if self.is_live(name) and self.live[name].moves:
            request_id = data.draw(some.sampled_from(sorted(self.live[name].moves)))
            point, ids = self.live[name].moves[request_id]
            assert self.run(self.world.operations.rewind("ann", name, point, None, request_id)).position == len(ids)
            with pytest.raises(InvalidRequest):
                self.run(self.world.operations.mark("ann", name, "m", request_id))

    @rule(name=NAMES, turns=some.lists(some.tuples(KINDS, INPUTS, REQUEST_IDS), min_size=2, max_size=4), back=MARKS)
    def regret(self, name: str, turns: list[tuple[str, Ids, str]], back: str) -> None:
        """A conversation that goes back one turn or all of them; what it was answered stays on record."""
        self.talk(name, turns)
        ids = self.live[name].boundaries[-2:][0] if back == "m" else self.live[name].boundaries[0]
        self.run(self.world.operations.rewind("ann", name, Point(len(ids)), None))
        self.live[name].go_back(ids, self.world.clock.now)
        for request_id, (asked, (_, standing)) in self.live[name].answers.items():
            again = self.run(self.send(asked, Caller("ann", name, request_id=request_id)))
            assert (again[1].position, again[1].is_replay) == (standing.position, True)

    @rule(name=NAMES, mark=MARKS)
    def checkpoint(self, name: str, mark: str) -> None:
        """The name points here from now on."""
        with self.refused(self.ending(name)):
            self.run(self.world.operations.mark("ann", name, mark))
            self.live[name].marks[mark] = self.live[name].ids
            self.live[name].used_at = self.world.clock.now

    @rule(name=NAMES, data=some.data(), ttl_seconds=some.sampled_from([50.0, 500.0]))
    def export(self, name: str, data: some.DataObject, ttl_seconds: float) -> None:
        """The state at the point, to be used later."""
        point, ids = self.draw_point(name, data)
        with self.refused(self.ending(name) or self.unknown(ids)):
            blob, position = self.run(self.world.operations.export("ann", name, point, ttl_seconds))
            assert ids is not None
            assert position == len(ids)
            self.sealed.append((blob, ids, self.world.clock.now + ttl_seconds))

    @precondition(lambda self: any(expiry > self.world.clock.now for _, _, expiry in self.sealed))
    @rule(name=NAMES, data=some.data())
    def import_state(self, name: str, data: some.DataObject) -> None:
        """A session that stands where the exported one stood, whatever became of that."""
        good = [one for one in self.sealed if one[2] > self.world.clock.now]
        blob, ids, _ = good[data.draw(some.integers(0, len(good) - 1))]
        with self.refused(SessionExists if self.is_live(name) else None):
            self.run(self.world.operations.import_state("ann", blob, name))
            self.note_new(name, ids)

    @rule(name=NAMES, is_sure=RARELY)
    def delete(self, name: str, is_sure: bool) -> None:
        """It is gone, and known to be deleted."""
        if self.is_live(name) and not is_sure:
            return
        with self.refused(self.ending(name)):
            self.run(self.world.operations.delete("ann", name))
            del self.live[name]
            self.ended[name] = SessionDeleted

    @rule(seconds=some.sampled_from([1.0, 1.0, 1.0, 1.0, 60.0, 101.0]), is_swept=some.booleans())
    def wait(self, seconds: float, is_swept: bool) -> None:
        """Time passes; sessions expire, swept or not."""
        self.world.clock.advance(seconds if self.has_clock else 0.0)
        if is_swept:
            self.run(self.world.operations.expire())

    @rule(name=NAMES)
    def trespass(self, name: str) -> None:
        """To a stranger there is no session, living or ended."""
        with pytest.raises(SessionNotFound):
            self.run(self.world.sessions.predict(Caller("bob", name), PredictionRequest()))

    # What must hold after each of it

    @invariant()
    def sessions_are_what_the_model_says(self) -> None:
        """Position, past and state of each, bit for bit; nobody else is there; no lane is busy."""
        for name in ("a", "b", "c"):
            with self.refused(self.ending(name)):
                history = self.run(self.world.operations.history("ann", name))
                believed = self.live[name]
                assert history.row.position == len(believed.ids)
                assert not self.has_clock or history.row.expires_at == believed.expires_at
                assert history.positions == tuple(map(len, believed.boundaries))
                assert history.marks == {mark: len(ids) for mark, ids in believed.marks.items()}
                assert same_snapshot(self.run(self.world.snapshot(name)), self.at(believed.ids))
        listed = self.run(self.world.operations.list_owned("ann", (0.0, ""), 9))
        assert {row.id for row in listed} == {name for name in self.live if self.is_live(name)}

    # The model

    def at(self, ids: Ids) -> Snapshot:
        if ids not in self.snapshots:
            self.snapshots[ids] = self.oracle.feed(self.at(ids[:-1]), ids[-1:])
        return self.snapshots[ids]

    def is_live(self, name: str) -> bool:
        """Notes that a session has expired, when it has."""
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
        """A point and the ids that led there; None if it is not retained."""
        if not self.is_live(name):
            return Point(), ()
        believed = self.live[name]
        points: list[tuple[Point, Ids | None]] = [(Point(len(ids)), ids) for ids in believed.boundaries]
        points += [(Point(mark=mark), ids) for mark, ids in believed.marks.items()]
        points += [(Point(), believed.ids), (Point(10_000), None), (Point(mark="x"), None)]
        return points[data.draw(some.integers(0, len(points) - 1))]

    def check_turn(self, name: str, asked: Asked, caller: Caller, *, is_repeat: bool | None = False) -> None:
        """Send it; the answer is right, and the model follows. None: it may or may not be a repeat."""
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

    # How it is done

    async def send(self, asked: Asked, caller: Caller) -> Answer:
        """The content of the answer, however it was cut into pieces, and where the sequence stands."""
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


@pytest.mark.parametrize("store", STORES)
def test_sessions_are_what_a_model_of_them_says(store: str, tmp_path: Path) -> None:
    """Over each store, for many drawn lives of three sessions."""
    numbers = iter(range(10**9))

    class Machine(Sessions):
        has_clock = store != "redis"

        @staticmethod
        def make_store(clock: Clock) -> SessionStore:
            directory = tmp_path / str(next(numbers))
            directory.mkdir()
            return STORES[store][0](directory, url, clock)

    profile = settings(
        max_examples=STORES[store][1],
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    with run_redis(tmp_path) if store == "redis" else contextlib.nullcontext() as server:
        url = server.url if server is not None else ""
        run_state_machine_as_test(Machine, settings=profile)
