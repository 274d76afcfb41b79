"""A Redis that does not answer, loses answers, goes, comes back, or has forgotten."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import pytest
from tests.server.state.conftest import (
    LONG,
    QUICK,
    RedisServer,
    advance,
    make_birth,
    open_session,
    run_redis,
    step,
    take,
)
from tests.server.state.redis_opening import lose_answers, opened, run_cli, two

from carousel.errors import SessionMoved, StoreUnavailable
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.store import EndReason


async def test_an_answer_that_was_lost_is_not_applied_twice(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the connection breaks after a change was applied, the call succeeds and it is applied once."""
    async with two(shared_redis) as (one, other):
        lose_answers(one, monkeypatch)
        await one.create([make_birth(parts={"a": b"0"})])
        for number in range(1, 4):
            held = await take(one)
            await one.commit(held, step(held, {"a": b"%d" % number}))
        seen = await take(other)
        await other.release(seen)
        assert (seen.row.revision, seen.parts) == (3, {"a": b"3"})
        assert await one.end(seen.row, EndReason.DELETED)


async def test_a_commit_in_doubt_is_not_acknowledged(redis_server: RedisServer) -> None:
    """Redis hangs while a turn commits: it is refused, and whatever became of it the session is whole afterwards."""
    async with opened(redis_server) as store:
        await store.create([make_birth(parts={"a": b"0"})])
        held = await take(store)
        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable) as refused:
            await store.commit(held, step(held, {"a": b"1"}))
        assert refused.value.details == {"in_doubt": "true"}
        redis_server.process.send_signal(signal.SIGCONT)
        await store.release(held)
        after = await take(store)
        assert (after.row.revision, after.parts) in ((0, {"a": b"0"}), (1, {"a": b"1"}))
        await store.commit(after, step(after, {"a": b"2"}))


async def test_redis_that_goes_and_comes_back(redis_server: RedisServer) -> None:
    """While it is away calls are unavailable; then what it acknowledged is there, and service goes on by itself."""
    async with opened(redis_server) as store:
        for number in range(20):
            await open_session(store, f"s{number}")
        rows = [await advance(store, f"s{number}") for number in range(20)]
        held = await take(store, "s0")
        redis_server.kill()
        for call in (
            store.read("ann", "s1"),
            store.acquire("ann", "s1"),
            store.num_live(),
            store.sweep(9),
            store.create([make_birth()]),
        ):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await call
        with pytest.raises(StoreUnavailable):
            await store.commit(held, step(held, {}))
        await store.release(held)
        redis_server.start()
        await _until_answers(store)
        assert [await store.read("ann", row.id) for row in rows] == rows
        assert (await take(store, "s3")).parts == {"at/0": b"0", "at/1": b"0"}
        assert await store.num_live() >= 20
        assert (await advance(store, "s0")).revision == 2


async def test_a_short_absence_is_ridden_out(redis_server: RedisServer) -> None:
    """A commit that finds Redis restarting waits a moment for it and succeeds."""
    timing = Timing(lease=5.0, time_out=0.5, patience=20.0, ending=60.0)
    async with opened(redis_server, timing) as store:
        await open_session(store)
        held = await take(store)
        redis_server.kill()
        commit = asyncio.create_task(store.commit(held, step(held, {})))
        await asyncio.wait([commit], timeout=0.1)
        assert not commit.done()
        await asyncio.to_thread(redis_server.start)
        changed = await commit
        assert await store.read("ann", "s") == changed


async def test_redis_that_forgot_everything(redis_server: RedisServer) -> None:
    """A turn that was held when Redis lost its data is refused, and so is one on a session created again since."""
    async with opened(redis_server) as store:
        await store.create([make_birth(parts={"a": b"old"})])
        await advance(store)
        held = await take(store)
        run_cli(redis_server, "flushall")
        with pytest.raises(SessionMoved):
            await store.commit(held, step(held, {}))
        assert await store.read("ann", "s") is None
        await store.create([make_birth(parts={"a": b"new"})])
        assert (await take(store)).parts == {"a": b"new"}


async def _until_answers(store: RedisStore) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(StoreUnavailable):
            await store.num_live()
            return
    raise AssertionError("Redis is back, the store is not")


async def test_no_redis_is_unavailable(tmp_path: Path) -> None:
    """A start without a server, and a call without a start, say so; closing is harmless."""
    with run_redis(tmp_path) as server:
        pass
    store = RedisStore(server.url, LONG, timing=QUICK)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.start(print)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read("ann", "s")
    await store.close()
