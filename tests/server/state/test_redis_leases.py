"""Turns of several servers on one session: leases, fences, places in line."""

import asyncio
import contextlib

import pytest
from tests.server.state.conftest import (
    QUICK,
    RedisServer,
    advance,
    open_session,
    step,
    take,
)
from tests.server.state.redis_opening import SLOW, opened, run_cli, stop_renewing, two

from carousel.errors import SessionMoved
from carousel.state.redis_store import RedisStore


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
    async with two(shared_redis) as (one, other):
        await open_session(one)
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=4 * QUICK.lease)
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
        with pytest.raises(SessionMoved):  # though the revision is still the one that it held
            await paused.commit(late, step(late, {"late": b"x"}))
        await paused.release(late)
        changed = await other.commit(got, step(got, {"other": b"1"}))
        with pytest.raises(SessionMoved):
            await paused.commit(late, step(late, {"late": b"x"}))
        held = await take(other)
        assert (held.row, held.parts) == (changed, {"at/0": b"0", "other": b"1"})


async def test_a_turn_whose_lease_ran_out_unnoticed_still_commits(shared_redis: RedisServer) -> None:
    """If nobody took the session meanwhile nothing is lost."""
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


async def test_a_waiting_server_is_let_in_by_one_with_a_line_of_its_own(shared_redis: RedisServer) -> None:
    """One server has turn after turn on a session; another's single turn comes after a few of them, not after all."""
    async with two(shared_redis, SLOW) as (busy, other):
        await open_session(busy)
        num_before: list[int] = []

        async def go_on() -> None:
            while not num_before:
                held = await take(busy)
                await asyncio.sleep(0.002)
                await busy.commit(held, step(held, {}))
                await busy.release(held)

        going = asyncio.create_task(go_on())
        while (await other.read("ann", "s")).revision < 3:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        held = await asyncio.wait_for(take(other), 10)
        first = held.row.revision
        await other.release(held)
        for _ in range(3):  # and again
            held = await asyncio.wait_for(take(other), 10)
            await other.release(held)
        num_before.append(held.row.revision - first)
        await going
        assert num_before[0] < 1_000
