"""A Redis without memory refuses what takes some, and goes on with all that is running and all that frees."""

import asyncio
from pathlib import Path

import pytest
from tests.server.state.conftest import (
    make_birth,
    open_session,
    run_redis,
)
from tests.server.state.redis_opening import opened, run_cli

from carousel.errors import Overloaded
from carousel.state.store import Ending, EndReason, Lifetimes


async def test_redis_out_of_memory(tmp_path: Path) -> None:
    """New sessions are Overloaded, nothing that lives is dropped, what is due or deleted is freed all the same; with
    memory again sessions are made."""
    with run_redis(tmp_path) as server:
        async with opened(server, lifetimes=Lifetimes(0.2, 9.0)) as store:
            await store.create([make_birth("due", parts={"x": bytes(1000)})])
            (row,) = await store.create([make_birth("deleted", parts={"x": bytes(1000)})])
            run_cli(server, "config", "set", "maxmemory", "1")
            with pytest.raises(Overloaded) as refused:
                await store.create([make_birth("b")])
            assert refused.value.limit == "redis_memory"
            assert await store.read("ann", "b") is None
            assert await store.end(row, EndReason.DELETED)
            await asyncio.sleep(0.25)  # until the other is due by the clock of Redis
            assert await store.sweep(9) == 1
            endings = [await store.read("ann", name) for name in ("due", "deleted")]
            assert [isinstance(one, Ending) and one.reason for one in endings] == [EndReason.IDLE, EndReason.DELETED]
            assert "parts" not in run_cli(server, "keys", "*")
            run_cli(server, "config", "set", "maxmemory", "0")
            await open_session(store, "b")
