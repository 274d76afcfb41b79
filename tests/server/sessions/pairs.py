"""Two worlds that are told the same, one that holds sessions and one that takes them for every message, and what
callers do there at random.

Where calls run at once, the second is told them one after the other in the order of their arrival; a call that was
given up is told it only if it was applied, which its request id shows.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.bounds import make_bounds, make_retention
from tests.fakes import ToyModel, same_snapshot
from tests.server.sessions.crashes import after_crash
from tests.server.sessions.paired_stores import STORES
from tests.worlds import Clock, Plan, World, running_world

from carousel.bundle.layout import Array, StateBatch
from carousel.errors import CarouselError
from carousel.sessions import residents
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, GenerationRequest, PredictionRequest, ScoringRequest
from carousel.sessions.resident import Named, Plain
from carousel.state.store import Durability, Ending, Row, SessionStore
from carousel.state.write_ahead import WriteAhead
from carousel.state.write_behind import WriteBehind
from carousel.turns import SamplingOptions

RETENTION = make_retention(max_turns=3, max_answers=2, max_answer_bytes=65_536, max_request_ids=12)
SESSIONS = ("a", "b", "c", "d")
STREAMS = ("1", "2", "3", "4", "5", "6")
MANY_STREAMS = ("5", "6")  # that are tags of PredictMany
NUM_ROUNDS = 150
NUM_SLOTS = 3
ROW_BYTES = 4 * 4 + 8 + 4 * 4  # of the toy model: state, count, hidden vector
Outcome = Any


class DawdlingModel(ToyModel):
    """Some of its steps take a while."""

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        if len(self.steps) % 3 == 0:
            time.sleep(0.002)
        return super().core(ids_BT, lengths_B, state)


@dataclass(frozen=True)
class Say:
    """A message on a stream, which is opened on the session if it is not open."""

    stream: str
    session: str
    ids: tuple[int, ...]
    k: int
    request_id: str
    expects: str  # "", "right", "wrong"
    words: bool = False


@dataclass(frozen=True)
class Other:
    """Anything else that takes or changes a session."""

    kind: str
    session: str
    number: int
    request_id: str = ""


Op = Say | Other


@dataclass
class Side:
    """One of the two worlds, and the streams that are open there."""

    world: World
    streams: dict[str, tuple[str, "Talk"]] = field(default_factory=dict)  # with the session of each

    async def do(self, op: Op, position: int) -> Outcome:
        try:
            return await (self._say(op, position) if isinstance(op, Say) else self._do_other(op))
        except CarouselError as error:
            return type(error).__name__, str(error)

    async def close(self, stream: str) -> None:
        if (found := self.streams.pop(stream, None)) is not None:
            await found[1].close()

    async def _say(self, op: Say, position: int) -> Outcome:
        if self.streams.get(op.stream, ("", None))[0] != op.session:
            await self.close(op.stream)
            talk = Talk(self.world, op.session, is_many=op.stream in MANY_STREAMS)
            self.streams[op.stream] = (op.session, talk)
        expected = {"": None, "right": position, "wrong": position + 1}[op.expects]
        talk = self.streams[op.stream][1]
        try:
            return await talk.say(op, expected)
        except CarouselError:
            if not talk.is_many:
                await self.close(op.stream)  # the call ends
            raise
        except BaseException:
            await self.close(op.stream)
            raise

    async def _do_other(self, op: Other) -> Outcome:
        operations, sessions = self.world.operations, self.world.sessions
        caller = Caller("ann", op.session, request_id=op.request_id)
        match op.kind:
            case "create":
                return (await operations.create("ann", op.session, self.world.engine.start_snapshot)).position
            case "delete":
                return await operations.delete("ann", op.session)
            case "get":
                return (await operations.get("ann", op.session)).position
            case "list":
                return sorted((row.id, row.position) for row in await operations.list_owned("ann", (0.0, ""), 100))
            case "history":
                history = await operations.history("ann", op.session)
                return history.positions, history.marks, history.row.position
            case "mark":
                return (await operations.mark("ann", op.session, f"m{op.number % 2}")).position
            case "rewind":
                at = (await operations.history("ann", op.session)).positions
                point = Point(at[op.number % len(at)])
                return (await operations.rewind("ann", op.session, point, None, op.request_id)).position
            case "fork":
                target = SESSIONS[op.number % len(SESSIONS)]
                return [row.position for row in await operations.fork("ann", op.session, Point(), [target], 1)]
            case "generate":
                options = SamplingOptions(temperature=0.7, seed=op.number, repetition_penalty=1.3)
                request = GenerationRequest((op.number % 16,), options, max_tokens=3)
                (*_, last) = [one async for one in sessions.generate(caller, request)]
                assert last.end is not None
                return replace(last.end, standing=replace(last.end.standing, durable_position=0))  # a matter of moments
            case _:
                scoring = ScoringRequest((op.number % 16, 3))
                (*_, end) = [one async for one in sessions.score(caller, scoring)]
                assert end.totals is not None
                return replace(end.totals, standing=replace(end.totals.standing, durable_position=0))


class Talk:
    """One stream, as the transport leads it; or, where `is_many`, one tag of a PredictMany stream."""

    def __init__(self, world: World, session: str, *, is_many: bool) -> None:
        self.is_many = is_many
        self.is_over = False
        self._talk = world.sessions.converse("ann")
        self._talk.name(session)
        self._answer: asyncio.Future[Named | Exception | None] | None = None

    async def say(self, op: Say, expected: int | None) -> Outcome:
        named: Named | None = None
        if len(op.ids) == 1 and not op.words:
            named = await self._say_plainly(Plain(op.ids[0], op.k, op.request_id, expected))
        if named is not None:
            return list(zip(named.ids, named.log_probabilities, strict=True)), named.position, False
        request = PredictionRequest(op.ids, op.k, word_prefix="a" if op.words else None)
        found = await self._talk.answer(request, Caller("ann", "", b"", op.request_id, expected))
        candidates = [(one.id, one.log_probability) for one in found.candidates]
        return candidates, found.standing.position, found.standing.is_replay

    def put(self, outcome: Named | Exception | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(outcome)

    async def close(self) -> None:
        self.is_over = True
        await self._talk.close()

    async def _say_plainly(self, plain: Plain) -> Named | None:
        if self.is_many:
            answer = self._answer = asyncio.get_running_loop().create_future()
            if self._talk.begin_plain(plain, self):
                outcome: Named | Exception | None = await answer
                if isinstance(outcome, Exception):
                    raise outcome
                if outcome is not None:
                    return outcome
            self._answer = None
        return await self._talk.answer_plain(plain)


class Pair:
    """The two worlds in step."""

    def __init__(self, seed: int, held: Side, taken: Side, path: Path, *, evicts: bool) -> None:
        self._path = path  # of the held side's file, if it has one
        self._evicts = evicts
        self.dice = random.Random(seed)
        self.held = held
        self.taken = taken
        self.num_held_turns = 0
        self._num_requests = 0

    async def round(self) -> None:
        dice = self.dice
        what = dice.random()
        if what < 0.6:
            await self._talk([self._draw_say()])
        elif what < 0.75:
            await self._talk_on(dice.choice(STREAMS))
        elif what < 0.9:
            await self._talk(self._draw_overlapping())
        elif what < 0.95:
            await self._pass_time(dice.choice([0, 1, 1, 1, 60, 101]))
            await self._talk([Other("create", dice.choice(SESSIONS), 0)])
        elif what < 0.97:
            await self._give_back()
        else:
            stream = dice.choice(STREAMS)
            await self.held.close(stream)
            await self.taken.close(stream)
        if dice.random() < 0.2:
            await self.compare()

    async def _give_back(self) -> None:
        """What a drain does, and what is done to idle ones."""
        found = self.held.world.residents
        if self.dice.random() < 0.5:
            await found.leave_all()
            return
        now = residents._now()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(residents, "_now", lambda: now + 1)
            await found.tidy()

    async def compare(self) -> None:
        """Every session, bit for bit."""
        for name in SESSIONS:
            op = Other("history", name, 0)
            assert await self.held.do(op, 0) == await self.taken.do(op, 0)
            if not isinstance(await self.taken.world.store.read("ann", name), Row):
                continue
            one, other = await self.held.world.hold(name), await self.taken.world.hold(name)
            ledger, codec = self.held.world.ledger, self.held.world.codec
            for position in ledger.positions(other):
                pair = [codec.decode(ledger.find(held, position, "")) for held in (one, other)]
                assert same_snapshot(*pair)

    async def _talk_on(self, stream: str) -> None:
        """Long enough for the ring to come round; in the end somebody else comes, whoever is cut off."""
        for _ in range(self.dice.randrange(2, 8)):
            if (said := self._draw_say(stream)).session == self.held.streams.get(stream, (said.session, None))[0]:
                await self._talk([said])
        others = [one for one in STREAMS if one != stream]
        pair: list[Op] = [self._draw_say(stream), self._draw_say(self.dice.choice(others))]
        await self._talk(_told_apart(pair), share_cut=0.6)

    async def _talk(self, ops: list[Op], share_cut: float = 0.2) -> None:
        """All at once in the one world, in order in the other."""
        for op in ops:
            if isinstance(op, Say) and self.held.streams.get(op.stream, (op.session, None))[0] != op.session:
                await self.held.close(op.stream)  # which takes a while, in which a later call would arrive first
                await self.taken.close(op.stream)
        positions = [await self._position(op.session) for op in ops]
        tasks = []
        for op, at in zip(ops, positions, strict=True):
            task = asyncio.create_task(self.held.do(op, at))
            tasks.append(task)
            if self.dice.random() < share_cut and isinstance(op, Say) and op.request_id:
                for _ in range(self.dice.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for op, at, outcome in zip(ops, positions, outcomes, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                assert isinstance(op, Say)
                if await self._is_applied(op):
                    await self.taken.do(op, at)
                await self.taken.close(op.stream)
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            expected = await self.taken.do(op, at)
            assert outcome == expected, f"{op}: {outcome} is not {expected}"
            if len(ops) == 1 and isinstance(op, Say):
                await self._check_written(op)
        if self._evicts and (len(ops) > 1 or any(isinstance(one, BaseException) for one in outcomes)):
            await self.compare()  # which was used last is not told by what was asked first

    async def _check_written(self, op: Say) -> None:
        """What was answered is in a store that outlives the server: at once, or with the next write."""
        world = self.held.world
        expected = await self.taken.world.store.read("ann", op.session)
        if isinstance(world.store, WriteAhead):
            if self.dice.random() < 0.1:
                async with after_crash(self._path, world.ledger, world.clock) as found:
                    assert _place(await found.read("ann", op.session)) == _place(expected)
        elif isinstance(world.store, WriteBehind):
            if self.dice.random() < 0.2:
                await world.store.flush()
                assert _place(await world.store._inner.read("ann", op.session)) == _place(expected)
        elif world.store.durability is Durability.EACH_TURN:
            assert _place(await world.store.read("ann", op.session)) == _place(expected)

    async def _is_applied(self, op: Say) -> bool:
        """Whether the session knows the request, in the one world and not yet in the other."""
        ledger = self.held.world.ledger
        if not isinstance(await self.held.do(Other("get", op.session, 0), 0), int):
            return False
        held = await self.held.world.hold(op.session)
        return ledger.is_used(held, op.request_id)

    async def _position(self, session: str) -> int:
        found = await self.taken.do(Other("get", session, 0), 0)
        return found if isinstance(found, int) else 0

    async def _pass_time(self, seconds: float) -> None:
        for side in (self.held, self.taken):
            side.world.clock.now += seconds
            await side.world.operations.expire()

    def _draw_say(self, stream: str | None = None) -> Say:
        dice = self.dice
        stream = stream or dice.choice(STREAMS)
        opened = self.held.streams.get(stream, ("", None))[0]
        session = opened if opened and dice.random() < 0.9 else dice.choice(SESSIONS)
        ids = (dice.randrange(16),) if dice.random() < 0.85 else tuple(dice.choices(range(16), k=dice.randrange(4)))
        expects = dice.choice(["", "", "right", "right", "wrong"]) if dice.random() < 0.5 else ""
        return Say(stream, session, ids, dice.choice([0, 1, 5, 10]), self._draw_id(), expects, dice.random() < 0.05)

    def _draw_id(self) -> str:
        """Mostly new ones, some of the last ones again."""
        if self.dice.random() < 0.4:
            return ""
        if self.dice.random() < 0.85:
            self._num_requests += 1
        return f"r{max(1, self._num_requests - self.dice.choice([0, 0, 0, 1, 2, 5]))}"

    def _draw_overlapping(self) -> list[Op]:
        dice = self.dice
        ops: list[Op] = [self._draw_say(stream) for stream in dice.sample(STREAMS, dice.randrange(1, 4))]
        ops = _told_apart(ops)
        kinds = ["create", "delete", "list", "history", "mark", "rewind", "fork", "generate", "score"]
        weights = [6, 1, 1, 2, 2, 3, 2, 3, 2]
        if dice.random() < 0.5:
            kind = dice.choices(kinds, weights)[0]
            ops = [*ops, Other(kind, dice.choice(SESSIONS), dice.randrange(100))]
        if any(isinstance(op, Other) and op.kind in ("delete", "list", "create", "fork", "rewind") for op in ops):
            return ops[-1:]  # their place among others is not that of their arrival
        return ops


def _place(found: Row | Ending | None) -> int | None:
    return found.position if isinstance(found, Row) else None


def _told_apart(ops: list[Op]) -> list[Op]:
    """Without a second one of a request id: which of two was applied, nobody could tell."""
    ids = [op.request_id for op in ops]
    return [op for number, op in enumerate(ops) if not op.request_id or ids.index(op.request_id) == number]


async def run_pair(kind: str, seed: int, directory: Path, url: str) -> int:
    """How many turns were taken by who holds."""
    retention = replace(RETENTION, max_turns=1 + seed % 3)
    ring_size = retention.max_turns + 2
    bounds = make_bounds(max_lanes=3, max_held_bytes=NUM_SLOTS * ring_size * ROW_BYTES, ring_size=ring_size)
    plans = []
    for name in ("held", "taken"):
        (directory / name).mkdir()

        def make(clock: Clock, directory: Path = directory / name) -> SessionStore:
            return STORES[kind](directory, url, clock)

        model = DawdlingModel() if name == "held" else ToyModel()
        plans.append(Plan(model, retention=retention, store=make, bounds=bounds, holds_sessions=name == "held"))
    async with running_world(plans[0]) as held, running_world(plans[1]) as taken:
        path = directory / "held" / "sessions.db"
        pair = Pair(seed, Side(held), Side(taken), path, evicts=kind == "small memory")
        for name in SESSIONS[:3]:
            for side in (pair.held, pair.taken):
                await side.do(Other("create", name, 0), 0)
        for _ in range(NUM_ROUNDS):
            await pair.round()
        await pair.compare()
        for stream in STREAMS:
            await pair.held.close(stream)
            await pair.taken.close(stream)
        await held.residents.tidy()
        assert held.engine.columns.num_used == 0
        return int(held.value("held_turns_total"))
