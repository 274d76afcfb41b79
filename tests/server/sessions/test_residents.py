"""A stream holds its session until others want it, and then gives it back, whole."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest
from tests.fakes import GatedModel, same_snapshot
from tests.server.sessions.held_streams import Stream, bounds, holding, sqlite_plan, wait
from tests.worlds import LIFETIMES, Clock, Plan, running_world

from carousel.errors import Overloaded, PositionMismatch, SessionEvicted
from carousel.sessions.operations import Point
from carousel.sessions.resident import Named
from carousel.shares import OwnerLimits
from carousel.state.memory import MemoryStore
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, SessionStore
from carousel.state.write_ahead import WriteAhead


async def test_a_stream_that_goes_on_holds_its_session() -> None:
    """The stream holds it from its second message on; a caller that looks finds all turns in the store."""
    async with holding() as (world, (stream,)):
        assert stream.holds
        assert (await world.hold("0")).row.position == 1  # the store's own
        assert (await world.operations.get("ann", "0")).position == 2
        assert not stream.holds


async def test_what_is_idle_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is not idle stays."""
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
    """What the stream said before does not count for them."""
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
    """This happens when slots run out; a busy session stays."""
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
    """A turn that finds all slots in use takes the ordinary path."""
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
async def test_a_stream_that_never_pauses_keeps_nobody_waiting(kind: str, tmp_path: Path) -> None:
    """A caller that looks, lists, sweeps or gives back has the session after the turn that runs."""
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
                    assert num_turns <= before + 10  # the list is read beside the turns
        finally:
            stopped.set()
            await going


async def test_a_position_that_is_not_met_holds_nothing() -> None:
    """When the stream has gone, it holds neither session nor slot."""
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
    """His own unused holds make room for him; where that makes none, nothing is given back."""
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
    """Streams that come, go, fail, collide and are cut off at random lose no slot."""
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
    """A rewind does too, over more turns than the ring has rows."""
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
    """The bound matters: a thousand held sessions have thousands of these."""
    assert not hasattr(Named((), (), 0, 0), "__dict__")
