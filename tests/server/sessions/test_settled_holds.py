"""Held sessions of a store that writes at intervals: told to it just before each write, so that a crash takes what it
takes of other turns, and what was said to be durable is."""

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes import GatedModel, ToyModel, same_snapshot
from tests.server.sessions.test_residents import Stream
from tests.server.state.conftest import LONG, NOW
from tests.server.state.opening import GatedStore, opened
from tests.worlds import Plan, World, running_world

from carousel.errors import SessionDeleted, StoreUnavailable
from carousel.sessions.resident import Plain
from carousel.state.store import EndReason, Held, Row
from carousel.state.write_behind import WriteBehind


@contextlib.asynccontextmanager
async def settling(path: Path, model: ToyModel | None = None) -> AsyncIterator[tuple[World, WriteBehind, GatedStore]]:
    """Writes when it is told to, or at the end."""
    inner = GatedStore(path / "sessions.db")
    behind = WriteBehind(inner, 1e6)
    async with running_world(Plan(model or ToyModel(), store=lambda _: behind, now=NOW)) as world:
        yield world, behind, inner


async def held_stream(world: World, name: str = "s") -> Stream:
    """After two turns, tokens 1 and 2."""
    await world.open(name)
    stream = Stream(world, name)
    for token in (1, 2):
        await stream.say(token)
    assert stream.holds
    return stream


async def left_by_a_crash(path: Path, name: str = "s") -> Held:
    """What the next server would find if this one died now."""
    copy = path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in path.glob("sessions.db*"):
        shutil.copy(file, copy)
    async with opened(copy / "sessions.db", clock=lambda: NOW) as store:
        held = await store.acquire("ann", name)
        assert isinstance(held, Held)
        return held


async def test_a_turn_is_told_at_the_next_write(tmp_path: Path) -> None:
    """Before it the store knows nothing of it; after it the file has it, and the stream goes on holding."""
    async with settling(tmp_path) as (world, behind, inner):
        stream = await held_stream(world)
        for token in (3, 4, 5):
            await stream.say(token, f"r{token}")
        assert (inner.writes, (await world.hold("s")).row.position) == ([], 1)
        await behind.flush()
        assert stream.holds
        found = await left_by_a_crash(tmp_path)
        ledger, codec = world.ledger, world.codec
        assert ledger.positions(found) == [0, 1, 2, 3, 4, 5]
        expected = world.oracle.feed(world.engine.start_snapshot, (1, 2, 3, 4, 5))
        assert same_snapshot(codec.decode(ledger.current(found)), expected)
        assert all(ledger.is_used(found, f"r{token}") for token in (3, 4, 5))
        assert await stream.say(6) == 6


async def test_what_was_said_to_be_durable_is(tmp_path: Path) -> None:
    """Whenever the server dies; and after a write all that was acknowledged before it."""
    dice = random.Random(7)
    async with settling(tmp_path) as (world, behind, _):
        stream = await held_stream(world)
        durable, acknowledged, written = 0, 2, 0
        for _ in range(60):
            named = await stream.talk.answer_plain(Plain(dice.randrange(16), 2))
            assert named is not None
            acknowledged, durable = named.position, max(durable, named.durable_position)
            assert written <= named.durable_position <= named.position
            if dice.random() < 0.2:
                await behind.flush()
                written = acknowledged
            if dice.random() < 0.2:
                await world.operations.get("ann", "s")
                world.residents._wanted.clear()
                await stream.say(1)
                acknowledged += 1
            if dice.random() < 0.3:
                assert max(written, durable) <= (await left_by_a_crash(tmp_path)).row.position <= acknowledged
        assert written > 20


async def test_a_write_while_a_turn_runs(tmp_path: Path) -> None:
    """What happened before it is written, the turn is not; it goes on, and is in the next write."""
    model = GatedModel()
    async with settling(tmp_path, model) as (world, behind, _):
        stream = await held_stream(world)
        model.close()
        running = asyncio.create_task(stream.say(3, "r"))
        await model.until_held()
        await behind.flush()
        assert (await left_by_a_crash(tmp_path)).row.position == 2
        model.gate.set()
        assert await running == 3
        assert stream.holds
        await behind.flush()
        found = await left_by_a_crash(tmp_path)
        expected = world.oracle.feed(world.engine.start_snapshot, (1, 2, 3))
        assert same_snapshot(world.codec.decode(world.ledger.current(found)), expected)


async def test_turns_during_a_write_are_in_the_next(tmp_path: Path) -> None:
    async with settling(tmp_path) as (world, behind, inner):
        stream = await held_stream(world)
        inner.gate.clear()
        writing = asyncio.create_task(behind.flush())
        await inner.reached.wait()
        named = await stream.talk.answer_plain(Plain(3, 2))
        assert named is not None
        assert (named.position, named.durable_position) == (3, 0)
        inner.gate.set()
        await writing
        assert (await left_by_a_crash(tmp_path)).row.position == 2
        named = await stream.talk.answer_plain(Plain(4, 2))
        assert named is not None
        assert (named.position, named.durable_position) == (4, 2)
        await behind.flush()
        assert (await left_by_a_crash(tmp_path)).row.position == 4


async def test_a_write_that_fails_stops_acknowledging(tmp_path: Path) -> None:
    """Held turns are refused and have not happened, until a write succeeds; nothing acknowledged is lost."""
    async with settling(tmp_path) as (world, behind, inner):
        stream = await held_stream(world)
        await stream.say(3, "r")
        inner.is_broken = True
        with pytest.raises(StoreUnavailable):
            await behind.flush()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await stream.talk.answer_plain(Plain(4, 2, "q"))
        assert stream.holds
        assert (await left_by_a_crash(tmp_path)).row.position == 0
        inner.is_broken = False
        await behind.flush()
        assert (await left_by_a_crash(tmp_path)).row.position == 3
        assert await stream.say(4, "q", expected=3) == 4
        expected = world.oracle.feed(world.engine.start_snapshot, (1, 2, 3, 4))
        await behind.flush()
        assert same_snapshot(await world.snapshot("s"), expected)


async def test_a_turn_that_runs_when_a_write_fails_is_refused(tmp_path: Path) -> None:
    model = GatedModel()
    async with settling(tmp_path, model) as (world, behind, inner):
        stream = await held_stream(world)
        model.close()
        running = asyncio.create_task(stream.say(3))
        await model.until_held()
        inner.is_broken = True
        with pytest.raises(StoreUnavailable):
            await behind.flush()
        model.gate.set()
        with pytest.raises(StoreUnavailable):
            await running
        inner.is_broken = False
        await behind.flush()
        assert await stream.say(4, expected=2) == 3


async def test_a_drain_loses_nothing(tmp_path: Path) -> None:
    """Of those that are given back, and of those that are still held when the store closes."""
    async with settling(tmp_path) as (world, behind, _):
        streams = [await held_stream(world, f"s{number}") for number in range(40)]
        for stream in streams:
            await stream.say(3)
        await world.residents.leave(("ann", "s0"))
        await behind.close()
    for number in (0, 1, 39):
        assert (await left_by_a_crash(tmp_path, f"s{number}")).row.position == 3


@pytest.mark.parametrize("reason", [EndReason.DELETED, EndReason.UNDONE])
async def test_what_ended_is_not_written_over_its_namesake(tmp_path: Path, reason: EndReason) -> None:
    """Held turns of a session that was deleted, or undone, which nobody is told of, are nobody's."""
    async with settling(tmp_path) as (world, behind, _):
        stream = await held_stream(world)
        await stream.say(3)
        assert await world.store.end((await world.hold("s")).row, reason)
        if reason is EndReason.DELETED:
            with pytest.raises(SessionDeleted):
                await stream.say(4)
        await world.open("s")
        for _ in range(2):
            await behind.flush()
        assert (await world.operations.get("ann", "s")).position == 0
        assert await stream.say(4) == 1


async def test_the_moment_of_use_is_kept(tmp_path: Path) -> None:
    """However late the store is told, the session expires after its last use."""
    async with settling(tmp_path) as (world, behind, inner):
        stream = await held_stream(world)
        await stream.say(3)
        used_at = world.clock.now
        world.clock.advance(30)
        inner.fake_clock.advance(30)
        await behind.flush()
        row = (await left_by_a_crash(tmp_path)).row
        assert (row.updated_at, row.expires_at) == (used_at, used_at + LONG.idle)


async def test_a_session_is_held_over_many_writes(tmp_path: Path) -> None:
    """A use between two writes moves the end of its life, so that it is not given back before its time."""
    async with settling(tmp_path) as (world, behind, inner):
        stream = await held_stream(world)
        resident = stream.talk._resident
        for _ in range(5):
            for clock in (world.clock, inner.fake_clock):
                clock.advance(LONG.idle / 2)
            await stream.say(3)
            await behind.flush()
            await world.operations.expire()
        assert stream.talk._resident is resident
        assert (await world.operations.get("ann", "s")).expires_at == world.clock.now + LONG.idle


async def test_others_have_their_turns_while_many_are_told(tmp_path: Path) -> None:
    """Each is told by itself; the event loop goes round in between."""
    async with settling(tmp_path) as (world, behind, _):
        streams = [await held_stream(world, f"s{number}") for number in range(40)]
        rounds = 0

        async def count() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await world.residents.settle()
        counting.cancel()
        assert rounds >= 2
        assert all(stream.holds for stream in streams)


async def test_a_row_is_as_new_as_its_last_note(tmp_path: Path) -> None:
    """The revision is one further for each write, not for each turn, and is the one that others then find."""
    async with settling(tmp_path) as (world, behind, _):
        stream = await held_stream(world)
        revisions = []
        for token in (3, 4):
            await stream.say(token)
            await behind.flush()
            found = await behind.read("ann", "s")
            assert isinstance(found, Row)
            revisions.append(found.revision)
        assert revisions == [2, 3]
