"""Turns of several servers on one session: leases, fences, places in line."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from tests.server.state.conftest import (
    LONG,
    QUICK,
    RedisServer,
    advance,
    open_session,
    step,
    take,
)
from tests.server.state.redis_faults import until_quiet
from tests.server.state.redis_opening import SLOW, opened, run_cli, stop_renewing, two

from carousel.errors import SessionMoved
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.store import Row


async def test_another_servers_turn_is_waited_for(shared_redis: RedisServer) -> None:
    """A take waits while another server holds the session, and has its change then."""
    async with two(shared_redis, SLOW) as (one, other):
        await open_session(one)
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        changed = await one.commit(held, step(held, {"a": b"1"}))
        got = await asyncio.wait_for(waiting, 5)
        assert (got.row, got.parts["a"]) == (changed, b"1")
        waiting = asyncio.create_task(take(one))
        await asyncio.wait([waiting], timeout=0.05)
        await other.release(got)
        assert (await asyncio.wait_for(waiting, 5)).row == changed


async def test_servers_that_compete_lose_no_turn(shared_redis: RedisServer) -> None:
    """Two servers that advance the same sessions at once apply every acknowledged turn exactly once."""
    async with two(shared_redis, SLOW) as servers:
        names = [f"s{number}" for number in range(4)]
        for name in names:
            await open_session(servers[0], name)

        async def live(store: RedisStore, name: str) -> None:
            for _ in range(15):
                await advance(store, name)

        await asyncio.gather(*(live(store, name) for store in servers for name in names))
        for name in names:
            held = await take(servers[1], name)
            assert (held.row.revision, len(held.parts)) == (30, 31)


async def test_a_lease_lasts_as_long_as_the_turn(shared_redis: RedisServer) -> None:
    """A turn that takes several times the lease keeps its session and commits."""
    async with two(shared_redis, replace(QUICK, lease=1.0)) as (one, other):
        await open_session(one)
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=2.5)
        assert not waiting.done()
        changed = await one.commit(held, step(held, {}))
        assert (await waiting).row == changed


async def test_a_paused_server_cannot_overwrite(shared_redis: RedisServer) -> None:
    """Once its lease is over another goes on; whatever the paused one commits or releases later has no effect."""
    async with two(shared_redis) as (paused, other):
        await open_session(paused)
        late = await take(paused)
        await stop_renewing(paused)
        got = await asyncio.wait_for(take(other), 10)
        await paused._leases._renew(("ann", "s"), late.epoch)  # what it has lost it keeps no longer
        assert len(paused._leases) == 0
        with pytest.raises(SessionMoved):  # though the revision is still the one that it held
            await paused.commit(late, step(late, {"late": b"x"}))
        await paused.release(late)
        changed = await other.commit(got, step(got, {"other": b"1"}))
        with pytest.raises(SessionMoved):
            await paused.commit(late, step(late, {"late": b"x"}))
        held = await take(other)
        assert (held.row, held.parts) == (changed, {"at/0": b"0", "other": b"1"})


async def test_a_turn_whose_lease_ran_out_unnoticed_still_commits(shared_redis: RedisServer) -> None:
    """If no other server took the session meanwhile, nothing is lost."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        held = await take(one)
        await stop_renewing(one)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "lease_until", "1")
        changed = await one.commit(held, step(held, {}))
        assert await other.read("ann", "s") == changed


async def test_a_cancelled_take_leaves_no_lease(shared_redis: RedisServer) -> None:
    """Cancelled at any moment, a take does not keep other servers waiting."""
    async with two(shared_redis, SLOW) as (one, other):
        await open_session(one)
        for num_steps in range(12):
            taking = asyncio.create_task(take(one))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            taking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one.release(await taking)
            await other.release(await asyncio.wait_for(take(other), 5))


async def test_closing_gives_leases_back(shared_redis: RedisServer) -> None:
    """A server that stops in the middle of a turn does not keep others waiting for its lease."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, SLOW) as other:
        async with opened(shared_redis, SLOW) as one:
            await open_session(one)
            await take(one)
        await asyncio.wait_for(take(other), 5)


async def test_an_epoch_follows_the_clock_of_redis(shared_redis: RedisServer) -> None:
    """So that none comes twice, although Redis has lost the takes since: an old turn is refused whatever it held."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        late = await take(one)
        run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "epoch", "0", "lease_until", "0")
        held = await take(other)
        assert held.epoch > late.epoch > 1e15
        with pytest.raises(SessionMoved):
            await one.commit(late, step(late, {}))
        await other.release(held)


@pytest.mark.parametrize("num_busy", [1, 2])
async def test_a_waiting_server_is_let_in_by_those_with_lines_of_their_own(
    shared_redis: RedisServer, num_busy: int
) -> None:
    """Servers have turn after turn on a session; another's single turn comes when each of them had one more at most."""
    async with contextlib.AsyncExitStack() as stack:
        run_cli(shared_redis, "flushall")
        other, *busy = [await stack.enter_async_context(opened(shared_redis, SLOW)) for _ in range(1 + num_busy)]
        await open_session(other)
        going = [asyncio.create_task(_go_on(store)) for store in busy]
        for _ in range(4):
            turn = asyncio.create_task(take(other))
            while not turn.done() and other._leases._server not in await _line(other):
                await asyncio.sleep(0)
            at_most = (await _look(other)).revision + num_busy + 1  # one may be under way
            held = await asyncio.wait_for(turn, 10)
            assert held.row.revision <= at_most
            await other.release(held)
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


async def _go_on(store: RedisStore) -> None:
    while True:
        held = await take(store)
        await asyncio.sleep(0.002)
        await store.commit(held, step(held, {}))
        await store.release(held)


async def _line(store: RedisStore) -> str:
    return str((await store._link.execute("HGET", "carousel2:{ann:s}:row", "line") or b"").decode())


async def _look(store: RedisStore) -> Row:
    row = await store.read("ann", "s")
    assert isinstance(row, Row)
    return row


async def test_who_waits_longest_is_next(shared_redis: RedisServer) -> None:
    """Servers are let in as they came, also one that asks seldom by then."""
    async with contextlib.AsyncExitStack() as stack:
        run_cli(shared_redis, "flushall")
        stores = [await stack.enter_async_context(opened(shared_redis, SLOW)) for _ in range(5)]
        await open_session(stores[0])
        held, order = await take(stores[0]), []

        async def turn(store: RedisStore) -> None:
            own = await take(store)
            order.append(store)
            await store.release(own)

        turns = []
        for store in stores[1:]:
            turns.append(asyncio.create_task(turn(store)))
            while store._leases._server not in await _line(stores[0]):
                await asyncio.sleep(0)
        await stores[0].release(held)
        await asyncio.wait_for(asyncio.gather(*turns), 10)
        assert order == stores[1:]
        assert await _line(stores[0]) == ""


async def test_who_gives_up_waiting_leaves_the_line(shared_redis: RedisServer) -> None:
    """A session that is free does not wait for a turn that was cancelled, wherever that was."""
    async with contextlib.AsyncExitStack() as stack:
        run_cli(shared_redis, "flushall")
        one, other, third = [await stack.enter_async_context(opened(shared_redis, SLOW)) for _ in range(3)]
        await open_session(one)
        for number in range(8):
            held = await take(one)
            waiting = asyncio.create_task(take(other))
            if number % 2:  # otherwise while its first question is on its way
                while other._leases._server not in await _line(one):
                    await asyncio.sleep(0)
            for _ in range(number):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await one.release(held)
            await third.release(await asyncio.wait_for(take(third), 5))
            await until_quiet(other)
            assert await _line(one) == ""


async def test_who_gives_up_waiting_leaves_the_places_of_others(shared_redis: RedisServer) -> None:
    """Those who wait before and behind it keep their order."""
    async with contextlib.AsyncExitStack() as stack:
        run_cli(shared_redis, "flushall")
        one, *others = [await stack.enter_async_context(opened(shared_redis, SLOW)) for _ in range(4)]
        await open_session(one)
        held, turns = await take(one), []
        for store in others:
            turns.append(asyncio.create_task(take(store)))
            while store._leases._server not in await _line(one):
                await asyncio.sleep(0)
        turns[1].cancel()
        await asyncio.gather(turns[1], return_exceptions=True)
        await until_quiet(others[1])
        servers = [place.split(":")[0] for place in (await _line(one)).split()]
        assert servers == [others[0]._leases._server, others[2]._leases._server]
        await one.release(held)
        await others[0].release(await asyncio.wait_for(turns[0], 5))
        await others[2].release(await asyncio.wait_for(turns[2], 5))


async def test_who_stopped_asking_is_not_waited_for(shared_redis: RedisServer) -> None:
    """A server that died in the line keeps its place for a moment only."""
    timing = Timing(lease=30.0, time_out=0.5, patience=1.0, ending=60.0, place=0.3)
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, timing) as one:
        await open_session(one)
        held = await take(one)
        now = int(1000 * float(run_cli(shared_redis, "time").split()[0]))
        for until, is_waited_for in ((now + 60_000, True), (now - 60_000, False)):
            run_cli(shared_redis, "hset", "carousel2:{ann:s}:row", "line", f"abcdef:{until}")
            await one.release(held)
            taking = asyncio.create_task(take(one))
            await asyncio.wait([taking], timeout=0.2 if is_waited_for else 5)
            assert taking.done() != is_waited_for
            if not is_waited_for:
                held = await taking
                assert await _line(one) == f"abcdef:{until}"
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            await until_quiet(one)


async def test_a_turn_does_not_lose_its_session_to_the_keys(shared_redis: RedisServer) -> None:
    """The session, and even its ending, would have been forgotten before the turn is over: the take and each renewal
    of the lease let the keys outlive the lease."""
    keys = ("carousel2:{ann:s}:row", "carousel2:{ann:s}:parts")
    kept_ms = 1000 * (SLOW.lease + SLOW.ending)
    async with two(shared_redis, SLOW) as (store, _):
        await open_session(store)
        for key in keys:
            run_cli(shared_redis, "pexpire", key, "20000")
        held = await take(store)
        assert all(int(run_cli(shared_redis, "pttl", key)) > kept_ms - 20_000 for key in keys)
        for key in keys:
            run_cli(shared_redis, "pexpire", key, "20000")
        await store._leases._renew(("ann", "s"), held.epoch)
        assert all(int(run_cli(shared_redis, "pttl", key)) > kept_ms - 20_000 for key in keys)
        await store.commit(held, step(held, {"at/1": b"1"}))
        assert all(int(run_cli(shared_redis, "pttl", key)) > 1000 * LONG.idle for key in keys)
        held = await take(store)
        await store._leases._renew(("ann", "s"), held.epoch)
        assert all(int(run_cli(shared_redis, "pttl", key)) > 1000 * LONG.idle for key in keys)  # never shortened
        await store.release(held)
