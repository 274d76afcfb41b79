"""A held session ends as any other does: deleted, evicted or expired, and never too early."""

import asyncio
from pathlib import Path

import pytest
from tests.fakes import GatedModel
from tests.server.sessions.held_streams import holding, memory_plan, sqlite_plan, wait
from tests.worlds import LIFETIMES, Plan

from carousel.errors import PositionMismatch, SessionDeleted, SessionEvicted, SessionExpired
from carousel.state.store import EndReason


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_session_that_ends_while_it_is_held_answers_so(kind: str, tmp_path: Path) -> None:
    """Its turn gets the ending, and a later session under the id is another one."""
    async with holding(1, Plan() if kind == "memory" else sqlite_plan(tmp_path)) as (world, (stream,)):
        await world.operations.delete("ann", "0")
        with pytest.raises(SessionDeleted):
            await stream.say(3)
        await world.open("0")
        assert [await stream.say(token) for token in (1, 2, 3)] == [1, 2, 3]
        with pytest.raises(PositionMismatch):
            await stream.say(4, expected=6)


async def test_a_turn_on_a_session_that_is_evicted_meanwhile() -> None:
    """The longest idle session is evicted, held or not."""
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
        assert await running == 1  # it took the ordinary path, to the namesake
        assert (await world.operations.get("ann", "0")).position == 1


async def test_looking_at_a_session_does_not_change_who_is_evicted() -> None:
    """Giving a held session back for a look is no use of it."""
    async with holding(3, memory_plan(3)) as (world, streams):
        await world.operations.get("ann", "0")
        await world.open("new")
        with pytest.raises(SessionEvicted):
            await streams[0].say(3)
        assert [await streams[number].say(3) for number in (1, 2)] == [3, 3]


async def test_what_ended_does_not_keep_the_others_from_being_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that are evicted while many idle ones are given back are passed over; no caller waits for ever."""
    async with holding(40, memory_plan(40)) as (world, streams):
        for stream in streams:
            await stream.say(3)
        await wait(1.0, monkeypatch)
        async with asyncio.timeout(5):
            tidying = asyncio.create_task(world.residents.tidy())
            await asyncio.sleep(0)  # it has given some sessions back
            assert len(world.residents) == 40 - 16
            for number in range(24):
                await world.open(f"new{number}")
            await tidying
        assert world.engine.columns.num_used == 0
        assert len(world.residents) == 0


async def test_who_waits_for_a_session_that_ends_meanwhile_is_answered() -> None:
    """The waiting caller is answered at once, even when no tidying runs."""
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


async def test_expiry_comes_in_time() -> None:
    """A session that a stream holds and does not use ends as any other; one that it uses lives."""
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
    """Within a second of the end that the store knows, turns take the ordinary path, which moves the end."""
    async with holding() as (world, (stream,)):
        world.clock.advance(LIFETIMES.idle - 0.5)
        assert await stream.say(3) == 3
        assert not stream.holds
        assert (await world.hold("0")).row.expires_at == world.clock.now + LIFETIMES.idle


async def test_the_moment_of_use_is_kept() -> None:
    """The time of use is right however late the session is given back."""
    async with holding() as (world, (stream,)):
        await stream.say(3)
        used_at = world.clock.now
        world.clock.advance(30)
        row = await world.operations.get("ann", "0")
        assert (row.updated_at, row.expires_at) == (used_at, used_at + LIFETIMES.idle)
