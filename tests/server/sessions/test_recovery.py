"""What a crash has left in the log becomes part of its sessions, as if it had been written when it happened."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.server.sessions.crashes import copy_file
from tests.server.sessions.test_logged_holds import NAMES, ROOMY, Logged, logging
from tests.worlds import LIFETIMES

from carousel.sessions.recovery import recover
from carousel.sessions.resident import LoggedTurn
from carousel.sessions.turn_log import read_entry, write_entry
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Ending, EndReason, Held, Row
from carousel.state.write_ahead import WriteAhead

assert (LIFETIMES.idle, LIFETIMES.absolute) == (100, 1000)


@pytest.mark.parametrize("seconds", [0, 50, 99.5])
async def test_a_session_lives_on_from_its_last_turn(seconds: float, tmp_path: Path) -> None:
    """Which the log alone has: by what was written of it before, it would have been idle for too long."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await it.store.flush()
        it.world.clock.advance(0.9)
        assert await stream.say(3) == 3
        last_used = it.world.clock()
        it.world.clock.advance(seconds)
        async with it.crash() as store:
            found = await store.read("ann", "s")
            assert isinstance(found, Row)
            assert found.position == 3
            assert found.expires_at == pytest.approx(last_used + LIFETIMES.idle)
            held = await store.acquire("ann", "s")
            assert isinstance(held, Held)
            await store.release(held)


async def test_a_session_whose_last_turn_is_long_ago_ends(tmp_path: Path) -> None:
    """By the clock, as if it had been written when it was used."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await it.store.flush()
        it.world.clock.advance(0.9)
        await stream.say(3)
        it.world.clock.advance(LIFETIMES.idle + 0.1)
        async with it.crash() as store:
            ended = await store.acquire("ann", "s")
            assert isinstance(ended, Ending)
            assert ended.reason is EndReason.IDLE


async def test_an_age_that_is_reached_ends_a_session_that_was_used(tmp_path: Path) -> None:
    """Turns in the log do not make it younger."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        for number in range(11):
            it.world.clock.advance(90)
            await stream.say(number)
            await it.store.flush()
        it.world.clock.advance(5)
        await stream.say(3)
        it.world.clock.advance(4)
        async with it.crash() as store:
            assert isinstance(await store.read("ann", "s"), Row)
        it.world.clock.advance(1)
        async with it.crash() as store:
            ended = await store.read("ann", "s")
            assert isinstance(ended, Ending)
            assert ended.reason is EndReason.AGE


async def test_nothing_is_held_after_a_recovery(tmp_path: Path) -> None:
    """Also of sessions of which the log has nothing new: they are ended in time as any other."""
    async with logging(tmp_path) as it:
        streams = [await it.stream(name) for name in NAMES]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SqliteStore, "trim", _nothing)
            await it.store.flush()  # the log still says what is written
        await streams[0].say(3)
        inner = SqliteStore(copy_file(tmp_path / "sessions.db"), ROOMY, LIFETIMES, clock=it.world.clock)
        store = WriteAhead(inner, 1e6)
        await store.start(lambda _: None)
        await recover(store, it.world.ledger, it.world.clock())
        assert inner._open is not None
        assert (len(inner._open.holds), store._in_use) == (0, {})
        it.world.clock.advance(LIFETIMES.idle + 1)
        assert await store.sweep(10) == len(NAMES)
        await store.close()


async def _nothing(*_: object) -> None:
    return None


async def rewrite(it: Logged, change: Callable[[list[LoggedTurn]], list[LoggedTurn]]) -> None:
    """The log has other turns from now on."""
    turns = [turn for entry in await it.inner.read_log() for turn in read_entry(entry)]
    await it.inner.trim(2**62)
    for turn in change(turns):
        await it.inner.append(write_entry([turn]), lambda _: None)


async def position_after_crash(it: Logged) -> int:
    async with it.crash() as store:
        found = await store.read("ann", "s")
        assert isinstance(found, Row)
        return found.position


async def test_nothing_is_made_of_what_follows_a_gap(tmp_path: Path) -> None:
    """A turn goes on from the one before it, or it never happened; also where the turns behind it would fit again."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await it.store.flush()
        for token in (3, 4, 5):
            await stream.say(token)

        def tear(turns: list[LoggedTurn]) -> list[LoggedTurn]:
            first, second, third = turns
            assert [turn.number for turn in turns] == [1, 2, 3]
            return [first, second._replace(number=7), third._replace(revision=first.revision + 1, number=1)]

        await rewrite(it, tear)
        assert await position_after_crash(it) == 3


async def test_a_turn_of_a_namesake_replaces_nothing(tmp_path: Path) -> None:
    """A session that was made anew counts its turns anew: they are of another incarnation."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await it.store.flush()
        for token in (3, 4):
            await stream.say(token)

        def name_alike(turns: list[LoggedTurn]) -> list[LoggedTurn]:
            first, second = turns
            return [first, second, first._replace(incarnation=first.incarnation + 1)]

        await rewrite(it, name_alike)
        assert await position_after_crash(it) == 4


async def test_a_clock_that_was_set_back_makes_no_session_younger_than_now(tmp_path: Path) -> None:
    """A turn that is of later than now counts as of now."""
    async with logging(tmp_path) as it:
        stream = await it.stream()
        await it.store.flush()
        await stream.say(3)
        it.world.clock.advance(-50)
        async with it.crash() as store:
            found = await store.read("ann", "s")
            assert isinstance(found, Row)
            assert (found.position, found.updated_at) == (3, it.world.clock())
