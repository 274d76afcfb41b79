"""Any call that finds a due session ends it, but never one that a turn holds: in every store with a test clock. Redis
has its own clock and separate tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import WIDE, advance, make_birth, make_store, open_session, step, take

from carousel.state.store import Ending, EndReason, Held, Lifetimes, Row, SessionStore

IDLE, ABSOLUTE = 100.0, 1000.0


@pytest.fixture(params=["memory", "sqlite", "write-behind"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, told: list[Ending]
) -> AsyncIterator[SessionStore]:
    """Gives each store, with short lives."""
    lifetimes = Lifetimes(IDLE, ABSOLUTE)
    made = make_store(request.param, request, tmp_path, WIDE, lifetimes=lifetimes, clock=clock)
    await made.start(told.append)
    yield made
    await made.close()


async def sweep(store: SessionStore) -> int:
    num_ended = 0
    while num := await store.sweep(100):
        num_ended += num
    return num_ended


async def _read(store: SessionStore) -> object:
    return await store.read("ann", "s")


async def _take(store: SessionStore) -> object:
    return await store.acquire("ann", "s")


async def _create(store: SessionStore) -> object:
    await open_session(store)
    return None


async def _list(store: SessionStore) -> object:
    assert await store.list_owned("ann", (0.0, ""), 9) == []
    return await store.read("ann", "s")


async def _sweep(store: SessionStore) -> object:
    assert await sweep(store) == 1
    return await store.read("ann", "s")


MEETINGS: list[Callable[[SessionStore], Awaitable[object]]] = [_read, _take, _create, _list, _sweep]


@pytest.mark.parametrize("meet", MEETINGS)
async def test_a_session_whose_time_has_come_ends_when_it_is_met(
    store: SessionStore, clock: FakeClock, told: list[Ending], meet: Callable[[SessionStore], Awaitable[object]]
) -> None:
    """A reader, a taker, a new session under its id, a list and the sweep end it; it is reported once; a moment earlier
    it exists."""
    row = await open_session(store)
    assert row.expires_at == clock.now + IDLE
    clock.advance(IDLE - 0.25)
    assert await store.read("ann", "s") == row
    assert await sweep(store) == 0
    clock.advance(0.25)
    found = await meet(store)
    (ending,) = told
    assert (ending.reason, ending.at, ending.incarnation) == (EndReason.IDLE, clock.now, row.incarnation)
    assert found in (ending, None)
    assert await sweep(store) == 0
    assert len(told) == 1


async def test_a_use_puts_the_end_off_up_to_an_age(store: SessionStore, clock: FakeClock, told: list[Ending]) -> None:
    """Each change restarts the idle time; nothing extends the absolute one."""
    row = await open_session(store)
    for _ in range(12):
        clock.advance(80)
        changed = await advance(store)
        assert changed.expires_at == min(clock.now + IDLE, row.created_at + ABSOLUTE)
        assert await sweep(store) == 0
    clock.advance(39.75)
    assert isinstance(await store.read("ann", "s"), Row)
    clock.advance(0.25)
    async with asyncio.timeout(20):
        while not await sweep(store):  # its last change may be on its way to the disk: then a later sweep ends it
            await asyncio.sleep(0)
    assert [ending.reason for ending in told] == [EndReason.AGE]


@pytest.mark.parametrize("seconds", [IDLE, ABSOLUTE + 1])
async def test_a_session_in_use_is_not_ended_by_the_clock(
    store: SessionStore, clock: FakeClock, told: list[Ending], seconds: float
) -> None:
    """Every call finds it, the sweep skips it, its change is applied; after the release it is like any other."""
    await open_session(store)
    held = await take(store)
    clock.advance(seconds)
    assert await sweep(store) == 0
    assert isinstance(await store.read("ann", "s"), Row)
    assert [row.id for row in await store.list_owned("ann", (0.0, ""), 9)] == ["s"]
    clock.advance(2)
    assert await sweep(store) == 0
    row = await store.commit(held, step(held, {"at/1": b"1"}))
    assert await sweep(store) == 0
    await store.release(held)
    clock.advance(2)
    is_old = seconds > ABSOLUTE
    assert row.position == 1
    assert await sweep(store) == int(is_old)
    assert [ending.reason for ending in told] == [EndReason.AGE] * is_old
    assert isinstance(await store.read("ann", "s"), Ending if is_old else Row)


async def test_a_session_given_back_unchanged_after_its_time_is_due(
    store: SessionStore, clock: FakeClock, told: list[Ending]
) -> None:
    """A turn that failed has not used the session."""
    await open_session(store)
    held = await take(store)
    clock.advance(IDLE)
    await store.release(held)
    clock.advance(2)
    assert await sweep(store) == 1
    assert told[0].reason is EndReason.IDLE


async def test_a_session_held_twice_is_held_until_both_have_given_it_back(
    store: SessionStore, clock: FakeClock
) -> None:
    """The first release does not let the session go for the second holder."""
    await open_session(store)
    first, second = await take(store), await take(store)
    clock.advance(IDLE)
    await store.release(first)
    assert await sweep(store) == 0
    clock.advance(2)
    assert isinstance(await store.acquire("ann", "s"), Held)
    await store.release(second)


async def test_many_expire_in_portions(store: SessionStore, clock: FakeClock, told: list[Ending]) -> None:
    """A sweep ends about the requested number; the next ones end the rest; used ones stay."""
    for number in range(0, 600, 100):
        await store.create([make_birth(str(number + n)) for n in range(100)])
    clock.advance(IDLE / 2)
    for name in ("7", "300"):
        await advance(store, name)
    clock.advance(IDLE / 2)
    assert 0 < await store.sweep(100) <= 150
    await sweep(store)
    assert len(told) == 598
    assert await store.num_live() == 2
    clock.advance(IDLE / 2)
    assert await sweep(store) == 2
