"""What is promised of turns holds for sessions that streams hold when the store fails, the client gives up at any
await, or the server drains: each turn is applied once or not at all, and no slot is lost."""

import asyncio
from pathlib import Path

import pytest
from tests.bounds import make_bounds, make_retention
from tests.fakes import Fault, FaultyStore, same_snapshot
from tests.server.sessions.test_residents import Stream
from tests.worlds import LIFETIMES, Clock, Plan, World, running_world

from carousel.errors import AnswerGone, StoreUnavailable
from carousel.state.memory import MemoryStore
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, SessionStore
from carousel.state.write_ahead import WriteAhead

ROOMY = Capacity(1000, 2**30, evicts=True)


def faulty_plan() -> Plan:
    return Plan(store=lambda clock: FaultyStore(MemoryStore(ROOMY, LIFETIMES, clock=clock)))


def faults_of(world: World) -> FaultyStore:
    assert isinstance(world.store, FaultyStore)
    return world.store


async def pause(event: str) -> None:
    """An await of several rounds of the event loop."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("num_before", [1, 2, 5])
@pytest.mark.parametrize("fault", [Fault.ACQUIRE, Fault.BEFORE_WRITE, Fault.AFTER_WRITE])
async def test_a_store_that_fails_in_the_middle(fault: Fault, num_before: int) -> None:
    """The client is told, and its repeat finds the turn applied once, whether it was or not."""
    async with running_world(faulty_plan()) as world:
        await world.open("s")
        stream = Stream(world, "s")
        for token in range(num_before):
            await stream.say(token)
        faults_of(world).faults[fault] = 1
        first: int | None = None
        try:
            first = await stream.say(7, "r")
        except StoreUnavailable:
            assert faults_of(world).faults[fault] == 0
        faults_of(world).faults.clear()  # a held session is not taken
        assert await stream.say(7, "r", expected=num_before) == num_before + 1
        assert first in (None, num_before + 1)
        assert await stream.say(8) == num_before + 2
        expected = world.oracle.feed(world.engine.start_snapshot, [*range(num_before), 7, 8])
        assert same_snapshot(await world.snapshot("s"), expected)
        await stream.talk.close()
        await world.residents.tidy()
        assert world.engine.columns.num_used == 0


async def test_a_store_that_fails_for_long_keeps_no_slot() -> None:
    """And when it is back, streams hold again."""
    async with running_world(faulty_plan()) as world:
        streams = [Stream(world, f"s{number}") for number in range(20)]
        for number, stream in enumerate(streams):
            await world.open(f"s{number}")
            for token in range(2):
                await stream.say(token)
        faults_of(world).faults[Fault.BEFORE_WRITE] = faults_of(world).faults[Fault.ACQUIRE] = 10**6
        for _ in range(3):
            outcomes = await asyncio.gather(*(stream.say(3) for stream in streams), return_exceptions=True)
            assert all(isinstance(one, StoreUnavailable) for one in outcomes)
            await world.residents.tidy()
            assert world.engine.columns.num_used == 0
        faults_of(world).faults.clear()
        for stream in streams:
            assert [await stream.say(token) for token in (3, 4)] == [3, 4]
            assert stream.holds
            await stream.talk.close()


@pytest.mark.parametrize("num_before", [0, 1, 2, 3])
async def test_given_up_at_every_await(num_before: int) -> None:
    """One message after the other is cut off one round later, until one is not."""
    store = FaultyStore(MemoryStore(ROOMY, LIFETIMES), pause)
    async with running_world(Plan(store=lambda _: store)) as world:
        for num_rounds in range(200):
            name = f"s{num_rounds}"
            await world.open(name)
            stream = Stream(world, name)
            for token in range(num_before):
                await stream.say(token)
            task = asyncio.create_task(stream.say(9, "r"))
            for _ in range(num_rounds):
                await asyncio.sleep(0)
            is_cut = task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.talk.close()
            assert world.engine.columns.num_used == 0
            again = Stream(world, name)
            assert await again.say(9, "r") == num_before + 1
            assert await again.say(1) == num_before + 2
            await again.talk.close()
            expected = world.oracle.feed(world.engine.start_snapshot, [*range(num_before), 9, 1])
            assert same_snapshot(await world.snapshot(name), expected)
            if not is_cut:
                return
        raise AssertionError("the message never came to its end")


async def test_a_drain_writes_what_is_held(tmp_path: Path) -> None:
    """With `memory_file`, the sessions sleep there with all their held turns, records and boundaries."""

    def make(clock: Clock) -> SessionStore:
        return MemoryStore(ROOMY, LIFETIMES, tmp_path / "sessions", clock)

    retention = make_retention(max_turns=3, max_answers=2, max_answer_bytes=65_536)
    async with running_world(Plan(store=make, retention=retention)) as world:
        for number in range(40):
            await world.open(f"s{number}")
            stream = Stream(world, f"s{number}")
            for token in range(number % 9 + 1):
                await stream.say(token, f"r{token}")
        await world.engine.drain(1)
    async with running_world(Plan(store=make, retention=retention)) as world:
        for number in range(40):
            name, count = f"s{number}", number % 9 + 1
            history = await world.operations.history("ann", name)
            assert history.positions == tuple(range(max(0, count - 3), count + 1))
            expected = world.oracle.feed(world.engine.start_snapshot, range(count))
            assert same_snapshot(await world.snapshot(name), expected)
            stream = Stream(world, name)
            assert await stream.say(count - 1, f"r{count - 1}") == count
            if count > 2:
                with pytest.raises(AnswerGone):
                    await stream.say(0, "r0")


@pytest.mark.parametrize("max_turns", [1, 2, 8])
async def test_rewinds_reach_as_far_as_they_do_elsewhere(max_turns: int) -> None:
    """However short the ring is."""
    plan = Plan(
        bounds=make_bounds(max_held_bytes=2**16, ring_size=max_turns + 2),
        retention=make_retention(max_turns=max_turns, max_answers=1, max_answer_bytes=65_536),
    )
    async with running_world(plan) as world:
        await world.open("s")
        stream = Stream(world, "s")
        for number in range(1, 25):
            await stream.say(number % 16)
            if number % 7 == 0:
                positions = (await world.operations.history("ann", "s")).positions
                assert positions == tuple(range(max(0, number - max_turns), number + 1))
                held = await world.hold("s")
                for position in positions:
                    found = world.codec.decode(world.ledger.find(held, position, ""))
                    expected = world.oracle.feed(
                        world.engine.start_snapshot, [one % 16 for one in range(1, position + 1)]
                    )
                    assert same_snapshot(found, expected)
                world.residents._wanted.clear()
        await stream.talk.close()


async def test_two_streams_on_one_session_take_turns(tmp_path: Path) -> None:
    """Each message is applied once, and the positions that are told are those of the session."""
    async with running_world(
        Plan(store=lambda clock: WriteAhead(SqliteStore(tmp_path / "sessions.db", ROOMY, LIFETIMES, clock=clock)))
    ) as world:
        await world.open("s")
        streams = [Stream(world, "s") for _ in range(3)]
        told: list[int] = []

        async def talk(stream: Stream) -> None:
            for token in range(15):
                told.append(await stream.say(token % 16))
                world.residents._wanted.clear()

        await asyncio.gather(*(talk(stream) for stream in streams))
        assert sorted(told) == list(range(1, 46))
        assert (await world.operations.get("ann", "s")).position == 45
        for stream in streams:
            await stream.talk.close()
        assert world.engine.columns.num_used == 0


async def test_a_clock_that_is_set_back_or_on() -> None:
    """A held session lives on, and ends by the clock that there is."""
    async with running_world() as world:
        await world.open("s")
        stream = Stream(world, "s")
        for token in range(3):
            await stream.say(token)
        world.clock.now -= 50
        assert await stream.say(3) == 4
        row = await world.operations.get("ann", "s")
        assert (row.updated_at, row.expires_at) == (world.clock.now, world.clock.now + LIFETIMES.idle)
        world.residents._wanted.clear()
        for token in range(3):
            await stream.say(token)
        world.clock.now += LIFETIMES.idle - 1.5
        assert await stream.say(3) == 8
        world.clock.now += 2
        await world.operations.expire()
        assert await stream.say(4) == 9
        await stream.talk.close()
