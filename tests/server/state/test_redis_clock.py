"""In Redis its own clock ends sessions, whatever the servers' clocks say, and never one that a turn holds."""

import asyncio
import time

import pytest
from tests.server.state.conftest import QUICK, RedisServer, advance, make_birth, open_session, step, take
from tests.server.state.test_redis_store import _run, opened

from carousel.state.redis_index import Entry
from carousel.state.redis_store import RedisStore
from carousel.state.store import Ending, EndReason, Lifetimes, Row

SHORT = Lifetimes(idle=0.15, absolute=30.0)


async def until_due(server: RedisServer, row: Row) -> None:
    """By the clock of Redis."""
    while float(_run(server, "time").split()[0]) + 0.1 < row.expires_at:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


@pytest.mark.parametrize("skew", [-600.0, 600.0])
async def test_the_servers_clock_does_not_matter(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """A server whose clock is ten minutes off writes the moments of Redis, ends nothing early and all in time."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    _run(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=SHORT) as store:
        row = await open_session(store)
        assert abs(row.created_at - real()) < 5
        assert row.expires_at - row.created_at == pytest.approx(0.15, abs=0.05)
        changed = await advance(store)
        assert abs(changed.updated_at - real()) < 5
        assert await store.sweep(9) == 0
        await until_due(shared_redis, changed)
        assert await store.sweep(9) == 1
        assert isinstance(await store.read("ann", "s"), Ending)


@pytest.mark.parametrize("meet", ["read", "take", "create", "sweep", "list"])
async def test_a_session_whose_time_has_come_ends_when_it_is_met(shared_redis: RedisServer, meet: str) -> None:
    """By whoever meets it; told once."""
    told: list[Ending] = []
    _run(shared_redis, "flushall")
    store = RedisStore(shared_redis.url, SHORT, timing=QUICK)
    await store.start(told.append)
    row = await open_session(store)
    await until_due(shared_redis, row)
    found: object = None
    match meet:
        case "read":
            found = await store.read("ann", "s")
        case "take":
            found = await store.take("ann", "s")
        case "create":
            assert (await open_session(store)).revision == 0
        case "sweep":
            assert await store.sweep(9) == 1
        case "list":
            assert await store.list_owned("ann", (0.0, ""), 9) == []
    assert [(one.reason, one.incarnation) for one in told] == [(EndReason.IDLE, row.incarnation)]
    assert found in (None, told[0])
    await store.close()


async def test_an_age_that_is_reached_is_told_as_such(shared_redis: RedisServer) -> None:
    """However much the session was used."""
    told: list[Ending] = []
    _run(shared_redis, "flushall")
    store = RedisStore(shared_redis.url, Lifetimes(idle=9.0, absolute=0.2), timing=QUICK)
    await store.start(told.append)
    await open_session(store)
    row = await advance(store)
    await until_due(shared_redis, row)
    assert await store.sweep(9) == 1
    assert [one.reason for one in told] == [EndReason.AGE]
    await store.close()


@pytest.mark.parametrize("sweeper", ["its own", "another"])
async def test_a_session_in_use_is_not_ended_by_the_clock(shared_redis: RedisServer, sweeper: str) -> None:
    """Long past its time, under a renewed lease, whoever sweeps between any two steps; its change is applied, and its
    keys outlive it."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=SHORT) as one, opened(shared_redis, lifetimes=SHORT) as two:
        other = one if sweeper == "its own" else two
        await open_session(one)
        held = await take(one)
        for _ in range(8):
            await asyncio.sleep(QUICK.lease / 4)
            assert await other.sweep(9) == 0
            assert isinstance(await other.read("ann", "s"), Row)
        assert int(_run(shared_redis, "pttl", "carousel2:{ann:s}:row")) > 1000 * QUICK.ending
        assert await other.sweep(9) == 0
        row = await one.commit(held, step(held, {"at/1": b"1"}))
        assert await other.sweep(9) == 0
        await one.release(held)
        assert row.position == 1
        assert isinstance(await other.read("ann", "s"), Row)


async def test_a_sweep_that_saw_a_session_before_a_turn_does_not_end_it(shared_redis: RedisServer) -> None:
    """What was due when it was looked at and was used since, or is in use, stays."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(idle=9.0, absolute=90.0)) as store:
        seen = await open_session(store)
        _run(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", "1")
        _run(shared_redis, "hset", "carousel2:{ann:s}:row", "lease_until", "99999999999999", "server", store._server)
        held = await take(store)
        assert not await store.end(seen, EndReason.IDLE)
        await store.commit(held, step(held, {}))
        await store.release(held)
        assert not await store.end(seen, EndReason.IDLE)
        _run(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", "1")
        assert not await store.end(seen, EndReason.IDLE)  # another revision than was seen
        assert await store.sweep(9) == 0  # the index knows that it is not due yet
        assert isinstance(await store.read("ann", "s"), Ending)


async def test_many_are_swept_in_portions(shared_redis: RedisServer) -> None:
    """About as many as it is told at once."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=SHORT) as store:
        for number in range(5):
            rows = await store.create([make_birth(f"{number}-{n}") for n in range(10)])
        await until_due(shared_redis, rows[-1])
        assert await store.sweep(20) == 20
        assert await store.sweep(99) == 30
        assert await store.num_live() == 0


async def test_sessions_that_were_used_do_not_hide_those_that_are_due(shared_redis: RedisServer) -> None:
    """A sweep goes on to what is due however many before it were used since: it is 0 when there is nothing more."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis) as store, opened(shared_redis, lifetimes=SHORT) as short:
        used = [await open_session(store, f"used{number}") for number in range(30)]
        for row in used:
            assert await store._index.postpone(Entry.of(row), 1.0)  # as if it had been due then, but for its use
        due = [await open_session(short, f"unused{number}") for number in range(5)]
        await until_due(shared_redis, due[-1])
        num_sweeps = 0
        while await store.sweep(8):
            num_sweeps += 1
        assert 0 < num_sweeps < 9
        assert await store.num_live() == 30
