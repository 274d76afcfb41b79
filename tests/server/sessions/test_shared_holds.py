"""Sessions that a stream holds in a store of several servers: any other server has them when it asks, and finds every
turn that was answered; whoever held one goes on after it in the ordinary way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.fakes import GatedModel, ToyModel, same_snapshot
from tests.server.sessions.test_residents import Stream, wait
from tests.server.state.conftest import RedisServer, run_redis
from tests.server.state.redis_opening import run_cli
from tests.worlds import LIFETIMES, Plan, World, running_world

from carousel.errors import PositionMismatch, SessionDeleted
from carousel.state.redis_store import RedisStore
from carousel.state.redis_terms import Timing


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with run_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def two_worlds(server: RedisServer, model: ToyModel | None = None) -> AsyncIterator[tuple[World, World]]:
    """Two servers of one Redis; the model is the first one's."""
    run_cli(server, "flushall")

    def make() -> RedisStore:
        return RedisStore(server.url, LIFETIMES, timing=Timing(lease=10.0))

    async with (
        running_world(Plan(model or ToyModel(), store=lambda _: make())) as one,
        running_world(Plan(store=lambda _: make())) as other,
    ):
        yield one, other


async def held_stream(world: World) -> Stream:
    await world.open("s")
    stream = Stream(world, "s")
    for token in (1, 2):
        await stream.say(token)
    assert stream.holds
    return stream


async def test_another_server_need_not_wait(redis: RedisServer) -> None:
    """It is as fast as if nobody held the session, and its turn comes after all that were answered."""
    async with two_worlds(redis) as (one, other):
        stream = await held_stream(one)
        for token in (3, 4):
            await stream.say(token, f"r{token}")
        assert (await other.operations.get("ann", "s")).position == 4
        elsewhere = Stream(other, "s")
        async with asyncio.timeout(0.2):
            assert await elsewhere.say(5, expected=4) == 5
        assert await stream.say(6, "r6") == 6
        expected = one.oracle.feed(one.engine.start_snapshot, (1, 2, 3, 4, 5, 6))
        assert same_snapshot(await one.snapshot("s"), expected)
        assert [await elsewhere.say(token, f"r{token}") for token in (3, 6)] == [3, 6]
        await elsewhere.talk.close()
        await stream.talk.close()


async def test_what_another_server_took_is_not_held_for_a_second(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the two would take it from each other again and again, a lost step for each turn."""
    async with two_worlds(redis) as (one, other):
        stream = await held_stream(one)
        elsewhere = Stream(other, "s")
        await elsewhere.say(3)
        await stream.say(4)
        num_held = one.value("held_turns_total")
        for seconds, holds in [(0.0, False), (0.9, False), (0.2, True)]:
            await wait(seconds, monkeypatch)
            await stream.say(5)
            assert stream.holds == holds
        assert one.value("held_turns_total") == num_held + 1
        await elsewhere.talk.close()
        await stream.talk.close()


async def test_a_stream_holds_its_session_for_as_long_as_it_speaks(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(redis) as (one, _):
        stream = await held_stream(one)
        resident = stream.talk._resident
        for _ in range(20):
            await wait(0.2, monkeypatch)
            await stream.say(3)
            await one.residents.tidy()
        assert stream.talk._resident is resident
        await stream.talk.close()


async def test_a_turn_that_another_server_overtakes_is_not_applied_twice(redis: RedisServer) -> None:
    """It runs when the other one takes the session: it happens after that one's, once, or is refused if it says what it
    expects."""
    model = GatedModel()
    async with two_worlds(redis, model) as (one, other):
        stream = await held_stream(one)
        for expected in (None, 6):
            model.close()
            running = asyncio.create_task(stream.say(3, f"q{expected}", expected))
            await model.until_held()
            elsewhere = Stream(other, "s")
            await elsewhere.say(9)
            await elsewhere.talk.close()
            model.gate.set()
            if expected is None:
                assert await running == 4
                one.residents._wanted.clear()
                await stream.say(5)
                await stream.say(6)
                assert stream.holds
            else:
                with pytest.raises(PositionMismatch):
                    await running
        expected_state = one.oracle.feed(one.engine.start_snapshot, (1, 2, 9, 3, 5, 6, 9))
        assert same_snapshot(await other.snapshot("s"), expected_state)
        await stream.talk.close()


async def test_a_session_that_another_server_deletes_answers_so(redis: RedisServer) -> None:
    async with two_worlds(redis) as (one, other):
        stream = await held_stream(one)
        await other.operations.delete("ann", "s")
        with pytest.raises(SessionDeleted):
            await stream.say(3)
        await other.open("s")
        assert await stream.say(4) == 1
        await stream.talk.close()


async def test_two_streams_on_two_servers_share_a_session(redis: RedisServer) -> None:
    """Each of their turns is applied once, whoever holds the session just then."""
    async with two_worlds(redis) as (one, other):
        await one.open("s")
        streams = [Stream(one, "s"), Stream(other, "s")]

        async def talk(stream: Stream, name: str) -> list[int]:
            return [await stream.say(1, f"{name}{number}") for number in range(60)]

        found = await asyncio.gather(talk(streams[0], "a"), talk(streams[1], "b"))
        assert sorted([*found[0], *found[1]]) == list(range(1, 121))
        for stream in streams:
            await stream.talk.close()
        expected = one.oracle.feed(one.engine.start_snapshot, [1] * 120)
        assert same_snapshot(await one.snapshot("s"), expected)
