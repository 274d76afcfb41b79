"""Whoever wants a session finds it as if no stream held it, soon, and however many others are held; no slot is lost."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.bounds import make_bounds
from tests.fakes import GatedModel, same_snapshot
from tests.worlds import LIFETIMES, Clock, Plan, World, running_world

from carousel.engine.scheduler import Bounds
from carousel.errors import Overloaded, PositionMismatch, SessionDeleted, SessionEvicted, SessionExpired
from carousel.sessions import residents
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, PredictionRequest
from carousel.sessions.resident import Named, Plain
from carousel.shares import OwnerLimits
from carousel.state.memory import MemoryStore
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, EndReason, SessionStore
from carousel.state.write_ahead import WriteAhead

ROW_BYTES = 4 * 4 + 8 + 4 * 4  # of the toy model: state, count, hidden vector


class Stream:
    """As the transport speaks for a client."""

    def __init__(self, world: World, session: str, owner: str = "ann") -> None:
        self.talk = world.sessions.converse(owner)
        self.talk.name(session)
        self._owner = owner

    async def say(self, token: int, request_id: str = "", expected: int | None = None) -> int:
        """The position after it."""
        named = await self.talk.answer_plain(Plain(token, 2, request_id, expected))
        if named is not None:
            return named.position
        return await self.say_otherwise(token, request_id, expected)

    async def say_otherwise(self, token: int, request_id: str = "", expected: int | None = None, k: int = 2) -> int:
        """In the ordinary way."""
        caller = Caller(self._owner, "", b"", request_id, expected)
        return (await self.talk.answer(PredictionRequest((token,), k), caller)).standing.position

    @property
    def holds(self) -> bool:
        return self.talk._resident is not None and not self.talk._resident.is_leaving


@contextlib.asynccontextmanager
async def holding(num_streams: int = 1, plan: Plan | None = None) -> AsyncIterator[tuple[World, list[Stream]]]:
    """A stream each on sessions 0, 1, ..., which hold them after two turns."""
    async with running_world(plan) as world:
        streams = [Stream(world, str(number)) for number in range(num_streams)]
        for number, stream in enumerate(streams):
            await world.open(str(number))
            for token in (1, 2):
                await stream.say(token)
        yield world, streams
        for stream in streams:
            await stream.talk.close()
        await world.residents.tidy()
        assert world.engine.columns.num_used == 0


def sqlite_plan(path: Path, **changes: Any) -> Plan:
    def make(clock: Clock) -> SessionStore:
        return WriteAhead(SqliteStore(path / "sessions.db", Capacity(1000, 2**30, evicts=True), LIFETIMES, clock=clock))

    return Plan(store=make, **changes)


def memory_plan(max_sessions: int, **changes: Any) -> Plan:
    def make(clock: Clock) -> SessionStore:
        return MemoryStore(Capacity(max_sessions, 2**30, evicts=True), LIFETIMES, clock=clock)

    return Plan(store=make, **changes)


def bounds(num_slots: int) -> Bounds:
    return make_bounds(ring_size=10, max_held_bytes=num_slots * 10 * ROW_BYTES)


async def wait(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock, which says what is idle, goes on by so much."""
    now = residents._now()
    monkeypatch.setattr(residents, "_now", lambda: now + seconds)


async def test_a_stream_that_goes_on_holds_its_session() -> None:
    """From its second message on; what happened is in the store when somebody looks."""
    async with holding() as (world, (stream,)):
        assert stream.holds
        assert (await world.hold("0")).row.position == 1  # the store's own
        assert (await world.operations.get("ann", "0")).position == 2
        assert not stream.holds


async def test_what_is_idle_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is not stays."""
    async with holding(3) as (world, streams):
        await wait(0.2, monkeypatch)
        await streams[1].say(3)
        await world.residents.tidy()
        assert all(stream.holds for stream in streams)
        await wait(0.1, monkeypatch)
        await world.residents.tidy()
        assert [stream.holds for stream in streams] == [False, True, False]
        assert (await world.hold("0")).row.position == 2
        await streams[0].say(3)
        assert streams[0].holds


async def test_what_others_want_is_not_held_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding() as (world, (stream,)):
        await world.operations.get("ann", "0")
        for seconds, holds in [(0.0, False), (0.9, False), (0.2, True)]:
            await wait(seconds, monkeypatch)
            await stream.say(3)
            assert stream.holds == holds


async def test_a_stream_that_failed_in_the_ordinary_way_lets_others_want_its_session() -> None:
    """What it said before must not count for them."""
    async with holding() as (world, (stream,)):
        with pytest.raises(Exception, match="k"):
            await stream.say_otherwise(3, k=999)
        await world.operations.get("ann", "0")
        await stream.say(4)
        assert not stream.holds


async def test_its_own_ordinary_messages_do_not_count_as_others() -> None:
    async with holding() as (world, (stream,)):
        await stream.say_otherwise(3)
        assert not stream.holds
        await stream.say(4)
        assert stream.holds


async def test_the_longest_idle_makes_room() -> None:
    """When slots run out; who is busy stays."""
    async with holding(3, Plan(bounds=bounds(3))) as (world, streams):
        await streams[0].say(3)
        await world.open("new")
        new = Stream(world, "new")
        for token in (1, 2):
            await new.say(token)
        assert [stream.holds for stream in (*streams, new)] == [True, False, True, True]
        assert world.engine.columns.num_used == 3
        assert (await world.hold("1")).row.position == 2
        await new.talk.close()


async def test_nobody_makes_room_who_is_busy() -> None:
    """A turn that finds all slots in use goes the ordinary way."""
    model = GatedModel()
    async with holding(2, Plan(model, bounds=bounds(2))) as (world, streams):
        await world.open("new")
        new = Stream(world, "new")
        await new.say(1)
        model.close()
        running = [asyncio.create_task(stream.say(3)) for stream in streams]
        await model.until_held()
        asking = asyncio.create_task(new.say(2))
        await asyncio.sleep(0)
        model.gate.set()
        assert await asking == 2
        assert not new.holds
        assert await asyncio.gather(*running) == [3, 3]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_session_that_ends_while_it_is_held_answers_so(kind: str, tmp_path: Path) -> None:
    """And a namesake that is made afterwards is another session."""
    async with holding(1, Plan() if kind == "memory" else sqlite_plan(tmp_path)) as (world, (stream,)):
        await world.operations.delete("ann", "0")
        with pytest.raises(SessionDeleted):
            await stream.say(3)
        await world.open("0")
        assert [await stream.say(token) for token in (1, 2, 3)] == [1, 2, 3]
        with pytest.raises(PositionMismatch):
            await stream.say(4, expected=6)


async def test_a_turn_on_a_session_that_is_evicted_meanwhile() -> None:
    """The one that is idle for longest is evicted, held or not."""
    async with holding(3, memory_plan(3)) as (world, streams):
        await streams[0].say(3)
        await world.open("new")
        with pytest.raises(SessionEvicted):
            await streams[1].say(3)
        assert [await streams[number].say(4) for number in (0, 2)] == [4, 3]


async def test_a_turn_whose_session_is_deleted_while_it_runs_is_not_applied() -> None:
    model = GatedModel()
    async with holding(1, Plan(model)) as (world, (stream,)):
        model.close()
        running = asyncio.create_task(stream.say(3))
        await model.until_held()
        row = (await world.hold("0")).row
        await world.store.end(row, EndReason.DELETED)
        await world.open("0")
        model.gate.set()
        assert await running == 1  # it went the ordinary way, to the namesake
        assert (await world.operations.get("ann", "0")).position == 1


async def test_looking_at_a_session_does_not_change_who_is_evicted() -> None:
    """What a held session is given back for, is no use of it."""
    async with holding(3, memory_plan(3)) as (world, streams):
        await world.operations.get("ann", "0")
        await world.open("new")
        with pytest.raises(SessionEvicted):
            await streams[0].say(3)
        assert [await streams[number].say(3) for number in (1, 2)] == [3, 3]


async def test_what_ended_does_not_keep_the_others_from_being_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that are evicted while many idle ones are given back are passed over; nobody waits for ever."""
    async with holding(40, memory_plan(40)) as (world, streams):
        for stream in streams:
            await stream.say(3)
        await wait(1.0, monkeypatch)
        async with asyncio.timeout(5):
            tidying = asyncio.create_task(world.residents.tidy())
            await asyncio.sleep(0)  # it has given some back
            assert len(world.residents) == 40 - 16
            for number in range(24):
                await world.open(f"new{number}")
            await tidying
        assert world.engine.columns.num_used == 0
        assert len(world.residents) == 0


async def test_who_waits_for_a_session_that_ends_meanwhile_is_answered() -> None:
    """At once, also when nobody tidies."""
    model = GatedModel()
    async with holding(1, Plan(model)) as (world, (stream,)):
        model.close()
        running = asyncio.create_task(stream.say(3))
        await model.until_held()
        looking = asyncio.create_task(world.operations.get("ann", "0"))
        await asyncio.sleep(0)
        await world.store.end((await world.hold("0")).row, EndReason.DELETED)
        model.gate.set()
        async with asyncio.timeout(5):
            for work in (looking, running):
                with pytest.raises(SessionDeleted):
                    await work


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_stream_that_never_pauses_keeps_nobody_waiting(kind: str, tmp_path: Path) -> None:
    """Whoever wants a session that is held has it after the turn that runs: who looks, lists, sweeps or gives back."""
    async with holding(2, Plan() if kind == "memory" else sqlite_plan(tmp_path)) as (world, (stream, _)):
        num_turns = 0
        stopped = asyncio.Event()

        async def go_on() -> None:
            nonlocal num_turns
            while not stopped.is_set():
                await stream.say(1)
                num_turns += 1

        going = asyncio.create_task(go_on())
        operations, residents = world.operations, world.residents
        try:
            for _ in range(10):
                for ask in (
                    lambda: operations.get("ann", "0"),
                    lambda: operations.list_owned("ann", (0.0, ""), 10),
                    residents.leave_all,
                ):
                    residents._wanted.clear()
                    async with asyncio.timeout(5):
                        while not stream.holds:
                            await asyncio.sleep(0)
                    before = num_turns
                    await asyncio.wait_for(ask(), 5)
                    assert num_turns <= before + 10  # a list is read beside the turns
        finally:
            stopped.set()
            await going


async def test_expiry_comes_in_time() -> None:
    """A session that a stream holds and does not use ends as another does; one that it uses lives."""
    async with holding(2) as (world, streams):
        for _ in range(4):
            world.clock.advance(60)
            await world.operations.expire()
            await streams[1].say(3)
        with pytest.raises(SessionExpired):
            await streams[0].say(3)
        assert await streams[1].say(3) == 7
        assert (await world.operations.get("ann", "1")).expires_at == world.clock.now + LIFETIMES.idle


async def test_nothing_is_begun_just_before_the_end() -> None:
    """Within a second of what the store knows, turns go the ordinary way, which moves the end."""
    async with holding() as (world, (stream,)):
        world.clock.advance(LIFETIMES.idle - 0.5)
        assert await stream.say(3) == 3
        assert not stream.holds
        assert (await world.hold("0")).row.expires_at == world.clock.now + LIFETIMES.idle


async def test_the_moment_of_use_is_kept() -> None:
    """However late the session is given back."""
    async with holding() as (world, (stream,)):
        await stream.say(3)
        used_at = world.clock.now
        world.clock.advance(30)
        row = await world.operations.get("ann", "0")
        assert (row.updated_at, row.expires_at) == (used_at, used_at + LIFETIMES.idle)


async def test_a_position_that_is_not_met_holds_nothing() -> None:
    """Neither session nor slot when the stream has gone."""
    async with running_world() as world:
        await world.open("s")
        stream = Stream(world, "s")
        await stream.say(1)
        with pytest.raises(PositionMismatch):
            await stream.say(2, expected=7)
        await stream.talk.close()
        assert world.engine.columns.num_used == 0


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_stream_that_is_cut_off_anywhere_holds_nothing(kind: str, tmp_path: Path) -> None:
    """Its turn is applied wholly or not at all."""
    async with running_world(Plan() if kind == "memory" else sqlite_plan(tmp_path)) as world:
        for number in range(60):
            await world.open(f"s{number}")
            stream = Stream(world, f"s{number}")
            for token in range(number % 3):
                await stream.say(token)
            task = asyncio.create_task(stream.say(9, "r"))
            for _ in range(number // 3):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            await stream.talk.close()
            assert world.engine.columns.num_used == 0
            position = (await world.operations.get("ann", f"s{number}")).position
            is_applied = world.ledger.is_used(await world.hold(f"s{number}"), "r")
            assert position == number % 3 + is_applied
            assert is_applied or isinstance(outcome, asyncio.CancelledError)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_caller_at_his_limit_does_not_cost_others_their_holds(kind: str, tmp_path: Path) -> None:
    """Room for him is made of what he holds without using it; where that makes none, nothing is given back."""
    capacity = Capacity(1000, 2**30, evicts=True, owner_limits=OwnerLimits(max_sessions=4))

    def make(clock: Clock) -> SessionStore:
        if kind == "memory":
            return MemoryStore(capacity, LIFETIMES, clock=clock)
        return WriteAhead(SqliteStore(tmp_path / "sessions.db", capacity, LIFETIMES, clock=clock))

    async with holding(4, Plan(store=make)) as (world, streams), contextlib.AsyncExitStack() as stack:
        for number in range(4):
            await world.open(f"b{number}", "bob")
        his = Stream(world, "b3", "bob")
        for _ in range(2):
            await his.say(1)
        for number in range(3):
            await stack.enter_async_context(world.access.hold("bob", f"b{number}"))
        await world.open("b4", "bob")
        with pytest.raises(SessionEvicted):
            await his.say(1)
        await stack.enter_async_context(world.access.hold("bob", "b4"))
        with pytest.raises(Overloaded):
            await world.open("b5", "bob")
        assert all(stream.holds for stream in streams)


async def test_slots_of_all_sizes_come_back() -> None:
    """Streams that come, go, fail, collide and are cut off at random lose none."""
    dice = random.Random(5)
    async with running_world(Plan(bounds=bounds(6))) as world:
        names = [f"s{number}" for number in range(10)]
        for name in names:
            await world.open(name)

        async def talk() -> None:
            for _ in range(15):
                stream = Stream(world, dice.choice(names))
                try:
                    for _ in range(dice.randrange(6)):
                        await stream.say(dice.randrange(16), expected=dice.choice([None, None, None, 0]))
                except PositionMismatch:
                    pass
                finally:
                    await stream.talk.close()

        tasks = [asyncio.create_task(talk()) for _ in range(12)]
        for task in dice.sample(tasks, 4):
            for _ in range(dice.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in outcomes)
        assert world.value("held_turns_total") > 20
        await world.residents.leave_all()
        assert world.engine.columns.num_used == 0
        assert len(world.residents) == 0
        assert repr(world.residents) == "Residents(0 here)"


async def test_a_fork_of_held_turns_goes_where_they_went() -> None:
    """As does a rewind, over more turns than the ring has rows."""
    async with holding() as (world, (stream,)):
        for token in range(3, 16):
            await stream.say(token)
        oracle = world.oracle
        await world.operations.fork("ann", "0", Point(position=12), ["fork"], 1)
        expected = oracle.feed(world.engine.start_snapshot, range(1, 13))
        assert same_snapshot(await world.snapshot("fork"), expected)
        row = await world.operations.rewind("ann", "0", Point(position=10), None)
        assert row.position == 10
        assert same_snapshot(await world.snapshot("0"), oracle.feed(world.engine.start_snapshot, range(1, 11)))
        assert await stream.say(11) == 11


def test_what_a_plain_turn_was_answered_is_small() -> None:
    """A thousand held sessions have thousands of these."""
    assert not hasattr(Named((), (), 0, 0), "__dict__")
