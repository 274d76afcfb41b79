"""A Redis Cluster of several machines, where no script reaches two sessions of different slots."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.state.conftest import RedisServer, advance, make_birth, open_session, run_redis, take
from tests.server.state.redis_faults import Faults
from tests.server.state.redis_opening import call_due, opened, run_cli

from carousel.errors import SessionExists, StoreUnavailable
from carousel.state.store import Birth, Deed, Ending, EndReason, Lifetimes, Repeated, Row

NUM_SLOTS = 16_384
NAMES = [f"copy-{number}" for number in range(12)]


@contextlib.asynccontextmanager
async def clustered(directory: Path, num_nodes: int) -> AsyncIterator[list[RedisServer]]:
    with contextlib.ExitStack() as stack:
        nodes = []
        for number in range(num_nodes):
            (folder := directory / str(number)).mkdir()
            nodes.append(stack.enter_context(run_redis(folder, "--cluster-enabled", "yes")))
        for number, node in enumerate(nodes):
            first, last = NUM_SLOTS * number // num_nodes, NUM_SLOTS * (number + 1) // num_nodes
            run_cli(node, "cluster", "addslots", *map(str, range(first, last)))
            run_cli(node, "cluster", "set-config-epoch", str(number + 1))
            run_cli(nodes[0], "cluster", "meet", "127.0.0.1", str(node.port))
        await asyncio.to_thread(_wait_until_whole, nodes)
        yield nodes


def _wait_until_whole(nodes: list[RedisServer]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        states = [run_cli(node, "cluster", "info") for node in nodes]
        if all("cluster_state:ok" in one and f"cluster_size:{len(nodes)}" in one for one in states):
            return
        time.sleep(0.05)
    raise AssertionError("the cluster did not come up")


def deed_of(births: list[Birth], request_id: str = "r") -> Deed:
    return Deed("ann", request_id, "print", tuple((birth.id, birth.incarnation) for birth in births))


async def test_a_cluster_works(tmp_path: Path) -> None:
    """A server in cluster mode is found out; sessions of all slots, their lists and their ends work."""
    async with clustered(tmp_path, 1) as (server,):
        async with opened(server) as store:
            assert "RedisCluster" in type(store._link._client).__name__
            for number in range(30):
                await open_session(store, str(number))
                row = await advance(store, str(number))
            assert [one.id for one in await store.list_owned("ann", (0.0, ""), 99)] == [str(n) for n in range(30)]
            assert await store.end(row, EndReason.DELETED)
            assert await store.num_live() == 29
        async with opened(server, lifetimes=Lifetimes(0.05, 9.0)) as store:
            await open_session(store, "short")
            await asyncio.sleep(0.06)  # until it is due by the clock of Redis
            call_due(server)
            assert await store.sweep(99) == 1


async def test_a_fork_across_machines_is_all_or_none(tmp_path: Path) -> None:
    """One request creates copies on three machines once; refused, it leaves none; interrupted, its retry finishes them
    from another server."""
    async with clustered(tmp_path, 3) as nodes, opened(nodes[0]) as one, opened(nodes[2]) as other:
        births, again = [[make_birth(name) for name in NAMES] for _ in range(2)]
        rows = await one.create(births, deed_of(births))
        assert all(int(run_cli(node, "dbsize")) >= 2 for node in nodes)
        with pytest.raises(Repeated):
            await other.create(again, deed_of(again))
        assert await other.recall("ann", "r") == deed_of(births)
        assert await other.list_owned("ann", (0.0, ""), 99) == sorted(rows, key=lambda row: row.id)

        taken = await open_session(one, "taken")
        refused = [make_birth(name) for name in (*(f"other-{name}" for name in NAMES), "taken")]
        with pytest.raises(SessionExists):
            await one.create(refused, deed_of(refused, "q"))
        assert await other.recall("ann", "q") is None
        found = [await other.read("ann", birth.id) for birth in refused]
        assert [row for row in found if row is not None] == [taken]
        assert await other.num_live() == 1 + len(rows)

        half, rest = [[make_birth(f"half-{name}") for name in NAMES] for _ in range(2)]
        Faults(one).lose(9, 10**9)
        with pytest.raises(StoreUnavailable):
            await one.create(half, deed_of(half, "h"))
        made = await other.create(rest, deed_of(rest, "h"))
        assert [row.incarnation for row in made] == [birth.incarnation for birth in half]


async def test_turns_and_ends_across_machines(tmp_path: Path) -> None:
    """Two servers go on with each other's sessions wherever they lie, and end them by request and by the clock."""
    async with clustered(tmp_path, 3) as nodes, opened(nodes[0]) as one, opened(nodes[1]) as other:
        await one.create([make_birth(name) for name in NAMES])
        for name in NAMES:
            await advance(one, name)
            held = await take(other, name)
            assert (held.row.position, len(held.parts)) == (1, 2)
            await other.release(held)
            found = await one.read("ann", name)
            assert isinstance(found, Row)
            deed = Deed("ann", f"end-{name}", "print", ((name, found.incarnation),))
            assert await one.end(found, EndReason.DELETED, deed)
            with pytest.raises(Repeated):
                await other.end(found, EndReason.DELETED, deed)
            assert isinstance(await other.read("ann", name), Ending)
        assert await one.num_live() == 0
