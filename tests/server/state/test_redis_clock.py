"""Redis ends sessions by its own clock, whatever the servers' clocks say, and never one that a turn holds."""

import asyncio
import time
from dataclasses import replace

import pytest
from tests.server.state.conftest import QUICK, RedisServer, advance, make_birth, open_session, step, take
from tests.server.state.redis_faults import Faults
from tests.server.state.redis_opening import SLOW, call_due, lose_answers, opened, run_cli

from carousel.state.redis_endings import RedisEndings
from carousel.state.redis_store import RedisStore
from carousel.state.store import Ending, EndReason, Lifetimes, Row

SHORT = Lifetimes(idle=0.5, absolute=30.0)


async def until_due(server: RedisServer, row: Row) -> None:
    """Waits until the session is due by the clock of Redis."""
    while float(run_cli(server, "time").split()[0]) + 0.1 < row.expires_at:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


@pytest.mark.parametrize("skew", [-600.0, 600.0])
async def test_the_servers_clock_does_not_matter(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """A server whose clock is ten minutes off writes the times of Redis, ends nothing early and everything in time."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(idle=300.0, absolute=3000.0)) as store:
        row = await open_session(store)
        assert abs(row.created_at - real()) < 60
        assert row.expires_at - row.created_at == pytest.approx(300.0, abs=1)
        changed = await advance(store)
        assert abs(changed.updated_at - real()) < 60
        assert changed.expires_at - changed.updated_at == pytest.approx(300.0, abs=1)
        call_due(shared_redis)
        assert await store.sweep(9) == 0
        assert not await store.end(changed, EndReason.IDLE)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", str(real() - 60))
        call_due(shared_redis)
        assert await store.sweep(9) == 1
        ending = await store.read("ann", "s")
        assert isinstance(ending, Ending)
        assert abs(ending.at - real()) < 60


@pytest.mark.parametrize("meet", ["read", "take", "create", "sweep", "list"])
async def test_a_session_whose_time_has_come_ends_when_it_is_met(shared_redis: RedisServer, meet: str) -> None:
    """Any call that finds it ends it; the ending is reported once."""
    told: list[Ending] = []
    run_cli(shared_redis, "flushall")
    store = RedisStore(shared_redis.url, SHORT, timing=QUICK)
    await store.start(told.append)
    row = await open_session(store)
    await until_due(shared_redis, row)
    found: object = None
    match meet:
        case "read":
            found = await store.read("ann", "s")
        case "take":
            found = await store.acquire("ann", "s")
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
    """The ending names the age, however much the session was used."""
    told: list[Ending] = []
    run_cli(shared_redis, "flushall")
    store = RedisStore(shared_redis.url, Lifetimes(idle=9.0, absolute=0.5), timing=QUICK)
    await store.start(told.append)
    await open_session(store)
    row = await advance(store)
    await until_due(shared_redis, row)
    assert await store.sweep(9) == 1
    assert [one.reason for one in told] == [EndReason.AGE]
    await store.close()


@pytest.mark.parametrize("sweeper", ["its own", "another"])
async def test_a_session_in_use_is_not_ended_by_the_clock(shared_redis: RedisServer, sweeper: str) -> None:
    """The lease is renewed long past the session's time, while sweeps run; the change is applied, and the keys outlive
    the session's time."""
    run_cli(shared_redis, "flushall")
    timing = replace(QUICK, lease=1.0)
    async with opened(shared_redis, timing, SHORT) as one, opened(shared_redis, timing, SHORT) as two:
        other = one if sweeper == "its own" else two
        await open_session(one)
        held = await take(one)
        for _ in range(8):
            await asyncio.sleep(timing.lease / 4)
            assert await other.sweep(9) == 0
            assert isinstance(await other.read("ann", "s"), Row)
        assert int(run_cli(shared_redis, "pttl", "carousel2:{ann:s}:row")) > 1000 * QUICK.ending
        assert await other.sweep(9) == 0
        row = await one.commit(held, step(held, {"at/1": b"1"}))
        assert await other.sweep(9) == 0
        await one.release(held)
        assert row.position == 1
        assert isinstance(await other.read("ann", "s"), Row)


async def test_a_sweep_that_saw_a_session_before_a_turn_does_not_end_it(shared_redis: RedisServer) -> None:
    """A session that was due when the sweep looked stays if it was used since or is in use."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(idle=9.0, absolute=90.0)) as store:
        seen = await open_session(store)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", "1")
        lease = ("lease_until", "99999999999999", "server", store._leases._server)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", *lease)
        held = await take(store)
        assert not await store.end(seen, EndReason.IDLE)
        await store.commit(held, step(held, {}))
        await store.release(held)
        assert not await store.end(seen, EndReason.IDLE)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", "1")
        assert not await store.end(seen, EndReason.IDLE)  # another revision than was seen
        assert await store.sweep(9) == 0  # the index knows that it is not due yet
        assert isinstance(await store.read("ann", "s"), Ending)


async def test_many_are_swept_in_portions(shared_redis: RedisServer) -> None:
    """One sweep ends about as many sessions as it is told to."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=SHORT) as store:
        for number in range(5):
            rows = await store.create([make_birth(f"{number}-{n}") for n in range(10)])
        await until_due(shared_redis, rows[-1])
        assert await store.sweep(20) == 20
        assert await store.sweep(99) == 30
        assert await store.num_live() == 0


@pytest.mark.parametrize("skew", [-600.0, 600.0])
async def test_sweeps_between_any_two_steps_of_a_turn(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """Another server, whose clock is ten minutes off, sweeps before and after each call of a turn that outlasts its
    session's time: the turn is applied and the session lives. A turn that fails lets it end."""
    run_cli(shared_redis, "flushall")
    real = time.time
    told: list[Ending] = []
    async with opened(shared_redis, SLOW) as one, opened(shared_redis, told=told.append) as other:

        async def sweep() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: real() + skew)
                call_due(shared_redis)
                await other.sweep(9)

        await open_session(one)
        faults = Faults(one)
        faults.hook = sweep
        for number in range(3):
            held = await take(one)
            run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", "1")
            changed = await one.commit(held, step(held, {"at": b"%d" % number}))
            await one.release(held)
            assert await other.read("ann", "s") == changed
        assert told == []
        held = await take(one)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "expires_at", "1")
        await one.release(held)
        assert [ending.reason for ending in told] == [EndReason.IDLE]
        faults.hook = None


async def test_used_sessions_do_not_hide_those_that_are_due(shared_redis: RedisServer) -> None:
    """Many sessions have old entries, since turns do not move them, and stand before a few that are due. One sweep
    reaches those, and the entries then say when to look again."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        rows = await store.create([make_birth(f"{number:02}") for number in range(30)])
        run_cli(shared_redis, "hset", "carousel2:{ann:28}:row", "expires_at", "1")
        run_cli(shared_redis, "hset", "carousel2:{ann:29}:row", "expires_at", "1")
        call_due(shared_redis)
        assert await store.sweep(5) == 2
        assert await store.sweep(5) == 0
        assert await store.num_live() == 28
        assert run_cli(shared_redis, "zcount", "carousel2:expiries", "-inf", str(rows[0].expires_at - 5)) == "0"


async def _do_nothing(*_: object) -> None:
    pass


async def test_an_end_is_told_once_although_its_answer_is_lost(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This covers the sweep, a reader and a request; only the server that ended it gets the report."""
    run_cli(shared_redis, "flushall")
    told: list[Ending] = []
    others: list[Ending] = []
    async with opened(shared_redis, told=told.append) as store, opened(shared_redis, told=others.append) as other:
        rows = await store.create([make_birth(name) for name in "abc"])
        lose_answers(store, monkeypatch)
        monkeypatch.setattr(RedisEndings, "_bound", _do_nothing)  # its calls would use up the answers that arrive
        run_cli(shared_redis, "hset", "carousel2:{ann:a}:row", "expires_at", "1")
        call_due(shared_redis)
        await asyncio.gather(store.sweep(9), other.sweep(9), store.read("ann", "a"), other.read("ann", "a"))
        run_cli(shared_redis, "hset", "carousel2:{ann:b}:row", "expires_at", "1")
        assert isinstance(await store.read("ann", "b"), Ending)
        assert await store.end(rows[2], EndReason.DELETED)
        assert sorted(ending.id for ending in told + others) == ["a", "b", "c"]
        assert {ending.id for ending in told} >= {"b", "c"}
