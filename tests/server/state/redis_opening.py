"""Opens Redis stores in tests and talks to their server directly."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.server.state.conftest import LONG, QUICK, RedisServer

from carousel.state.redis_store import RedisStore, Timing
from carousel.state.store import Ending, Lifetimes

SLOW = Timing(lease=30.0, time_out=0.5, patience=1.0, ending=60.0, place=30.0)


@contextlib.asynccontextmanager
async def opened(
    server: RedisServer,
    timing: Timing = QUICK,
    lifetimes: Lifetimes = LONG,
    told: Callable[[Ending], None] = lambda _: None,
    **options: Any,
) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, lifetimes, timing=timing, **options)
    await store.start(told)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def two(server: RedisServer, timing: Timing = QUICK) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    run_cli(server, "flushall")
    async with opened(server, timing) as one, opened(server, timing) as other:
        yield one, other


def run_cli(server: RedisServer, *command: str) -> str:
    output = subprocess.run(["redis-cli", "-p", str(server.port), *command], check=True, stdout=subprocess.PIPE)
    return output.stdout.decode().strip()


async def stop_renewing(store: RedisStore) -> None:
    """Pauses the server: it says nothing to Redis until its next call."""
    (task,) = [task for task in store._work._beside if task.get_name() == "keep-leases"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def lose_answers(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every second exchange with Redis take place and throws its answers away."""
    num_calls = 0
    exchange = store._link._exchange

    async def lose(commands: list[Any]) -> list[Any]:
        nonlocal num_calls
        num_calls += 1
        replies = await exchange(commands)
        if any(isinstance(reply, Exception) for reply in replies):  # the script is not known yet
            num_calls -= 1
            return replies
        return [ConnectionResetError("lost")] * len(replies) if num_calls % 2 else replies

    monkeypatch.setattr(store._link, "_exchange", lose)


def call_due(server: RedisServer) -> None:
    """Makes the index of expiries say that all sessions are due for a look now."""
    script = "for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 1, m) end"
    run_cli(server, "eval", script, "1", "carousel2:expiries")
