"""Turns that begin while the writer's thread ends sessions, at any step of the one and of the other."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, make_birth, open_session, step, take
from tests.server.state.opening import opened

from carousel.errors import Overloaded, SessionExists, StoreUnavailable
from carousel.state.sqlite_holds import Key
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Ending, Held, Row

ONE = Capacity(max_sessions=1, max_bytes=2**30, evicts=True)
FULL = Capacity(max_sessions=3, max_bytes=10_000, evicts=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


class Steps:
    """Counts the steps of the writer's or the reader's thread, and has it stand still before one of them."""

    def __init__(self, pause_before: int = -1) -> None:
        self.count = 0
        self._pause_before = pause_before
        self._is_reached = threading.Event()
        self._goes_on = threading.Event()

    def step(self, *_: object) -> None:
        if self.count == self._pause_before:
            self._is_reached.set()
            assert self._goes_on.wait(5)
        self.count += 1

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self._is_reached.wait, 5)

    def go_on(self) -> None:
        self._goes_on.set()

    def watch_writer(self, store: SqliteStore) -> None:
        """Each statement, each look at what is held, before and after it, and the end of each transaction."""
        assert store._open is not None
        holds, writer = store._open.holds, store._open.writer
        begin, settled = holds.begin_ending, writer._settled

        def begin_ending(key: Key, *, even_held: bool = False) -> bool:
            self.step()
            is_begun = begin(key, even_held=even_held)
            self.step()
            return is_begun

        def settle(is_committed: bool) -> None:
            self.step()
            settled(is_committed)
            self.step()

        holds.begin_ending = begin_ending  # type: ignore[method-assign]
        writer._settled = settle
        writer._connection.set_trace_callback(self.step)

    def watch_reader(self, store: SqliteStore) -> None:
        assert store._open is not None
        store._open.reader.set_trace_callback(self.step)


async def _expire(store: SqliteStore) -> None:
    await store.sweep(9)


async def _evict(store: SqliteStore) -> None:
    with contextlib.suppress(Overloaded):
        await store.create([make_birth("new", "ann", parts={})])


async def _make_anew(store: SqliteStore) -> None:
    with contextlib.suppress(SessionExists):
        await store.create([make_birth("s", "ann", parts={})])


ENDERS = {"expire": _expire, "evict": _evict, "make anew": _make_anew}


@contextlib.asynccontextmanager
async def _one_session(
    path: Path, how: str, *, is_cached: bool
) -> AsyncIterator[tuple[SqliteStore, FakeClock, list[Ending]]]:
    """Opens a store with only the session s."""
    path.unlink(missing_ok=True)
    clock, told = FakeClock(NOW), list[Ending]()
    cache_bytes = 2**20 if is_cached else 0
    async with opened(path, ONE, cache_bytes=cache_bytes, clock=clock, told=told.append) as store:
        await open_session(store)
        if how != "evict":
            clock.advance(LONG.idle)
        yield store, clock, told


async def _check_outcome(store: SqliteStore, found: Held | Ending | None, told: list[Ending]) -> None:
    """A session that was taken lives and can be changed; one that ended was said to have, once, and is gone."""
    endings = [ending for ending in told if ending.id == "s"]
    if isinstance(found, Held) and not (endings and endings[0].incarnation != found.row.incarnation):
        assert endings == []
        await store.commit(found, step(found, {"more": b"1"}))
        row = await store.read("ann", "s")
        assert isinstance(row, Row)
        assert row.revision == 1
    elif isinstance(found, Held):  # the one that was made under the id of the one that ended
        await store.commit(found, step(found, {"more": b"1"}))
    else:
        assert isinstance(found, Ending)
        assert endings == [found]


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("how", ENDERS)
async def test_a_take_at_any_step_of_an_ending_keeps_its_session_or_is_told(
    path: Path, how: str, is_cached: bool
) -> None:
    """Wherever the writer stands when a take begins, the take never gets a session that the clock, or another's wish
    for room, ends then."""
    dry = Steps()
    async with _one_session(path, how, is_cached=is_cached) as (store, _, told):
        dry.watch_writer(store)
        await ENDERS[how](store)
        assert [ending.id for ending in told] == ["s"]
        num_steps = dry.count
    assert num_steps >= 10
    for number in range(num_steps):
        steps = Steps(pause_before=number)
        async with _one_session(path, how, is_cached=is_cached) as (store, _, told):
            steps.watch_writer(store)
            ending = asyncio.create_task(ENDERS[how](store))
            await steps.until_reached()
            taking = asyncio.create_task(store.acquire("ann", "s"))
            await asyncio.wait([taking], timeout=0.01)
            steps.go_on()
            found = await taking
            await ending
            await _check_outcome(store, found, told)


@pytest.mark.parametrize("how", ENDERS)
async def test_an_ending_at_any_step_of_a_take_leaves_the_session_or_is_told(path: Path, how: str) -> None:
    """Wherever a take stands when the clock or a wish for room goes over the sessions, it gets none that then ends."""
    for number in range(4):
        steps = Steps(pause_before=number)
        async with _one_session(path, "evict", is_cached=False) as (store, clock, told):
            steps.watch_reader(store)
            taking = asyncio.create_task(store.acquire("ann", "s"))
            await steps.until_reached()
            if how != "evict":
                clock.advance(LONG.idle)
            await ENDERS[how](store)
            steps.go_on()
            await _check_outcome(store, await taking, told)


@pytest.mark.parametrize("number", range(8))
async def test_a_cancelled_take_holds_nothing(path: Path, number: int) -> None:
    """Cancelled at any step, while it reads or while it asks the writer, it keeps no session from its end, nor room."""
    clock = FakeClock(NOW)
    async with opened(path, FULL, cache_bytes=0, clock=clock) as store:
        await open_session(store)
        if number % 2:
            clock.advance(LONG.idle)
        taking = asyncio.create_task(store.acquire("ann", "s", 9000))
        for _ in range(number):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not (taking.cancelled() or isinstance(taking.result(), Ending)):
            held = taking.result()
            assert isinstance(held, Held)
            await store.release(held)
        clock.advance(LONG.idle)
        await store.sweep(9)
        assert isinstance(await store.read("ann", "s"), Ending)
        await store.create([make_birth("t", parts={"x": bytes(9000)})])


async def test_what_was_granted_late_holds(path: Path) -> None:
    """A take that had to ask the writer holds its session like any other, after whoever held it before has gone."""
    async with _one_session(path, "evict", is_cached=True) as (store, clock, told):
        first = await take(store)
        clock.advance(LONG.idle)
        second = await take(store)
        await store.release(first)
        assert await store.sweep(9) == 0
        await store.release(second)
        assert await store.sweep(9) == 1
        assert len(told) == 1


async def test_what_asked_and_went_away_holds_nothing(path: Path) -> None:
    """A take that is cancelled before the writer's answer gets no hold: it would never be released."""
    async with _one_session(path, "evict", is_cached=True) as (store, clock, told):
        held = await take(store)
        clock.advance(LONG.idle)
        steps = Steps(pause_before=0)
        steps.watch_writer(store)
        sweeping = asyncio.create_task(store.sweep(9))
        await steps.until_reached()
        asking = asyncio.create_task(store.acquire("ann", "s"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        steps.go_on()
        assert await sweeping == 0
        await store.release(held)
        await store.sweep(9)
        assert len(told) == 1


async def test_an_ending_that_failed_lets_takes_in(path: Path) -> None:
    """A take that began while the writer was about to end its session gets it when that was not written after all."""
    steps = Steps(pause_before=0)
    async with _one_session(path, "evict", is_cached=True) as (store, _, told):
        assert store._open is not None
        changes = store._open.changes
        insert = changes._insert

        def fail(*_: object) -> Row:
            steps.step()
            raise sqlite3.OperationalError("disk I/O error")

        changes._insert = fail  # type: ignore[method-assign,assignment]
        evicting = asyncio.create_task(_evict(store))
        await steps.until_reached()
        taking = asyncio.create_task(store.acquire("ann", "s"))
        await asyncio.wait([taking], timeout=0.01)
        steps.go_on()
        with pytest.raises(StoreUnavailable):
            await evicting
        changes._insert = insert  # type: ignore[method-assign]
        await _check_outcome(store, await taking, told)
        assert "1 sessions held, 0 ending" in repr(store)
        with pytest.raises(Overloaded):
            await store.create([make_birth("new")])
