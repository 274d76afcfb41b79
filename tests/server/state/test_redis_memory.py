"""A Redis without memory refuses what takes some, and goes on with all that is running and all that frees."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from tests.server.state.conftest import make_birth, open_session, run_redis, step, take
from tests.server.state.redis_faults import Faults
from tests.server.state.redis_opening import SLOW, call_due, opened, run_cli

from carousel.errors import Overloaded
from carousel.state.redis_link import RedisLink
from carousel.state.store import Deed, Ending, EndReason, Lifetimes, Repeated


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


async def test_a_turn_that_runs_is_finished_without_memory(tmp_path: Path) -> None:
    """Its lease is renewed and its change is stored, since its answer may have been streamed already; a new turn is
    refused, and another session that was held is given back."""
    with run_redis(tmp_path) as server:
        async with opened(server, SLOW) as store, opened(server, SLOW) as other:
            await store.create([make_birth(name) for name in "ab"])
            held, given_back = await take(store, "a"), await take(store, "b")
            run_cli(server, "hset", "carousel2:{ann:a}:row", "lease_until", "1")
            run_cli(server, "config", "set", "maxmemory", "1")
            await store._leases._renew(("ann", "a"), held.epoch)
            assert int(run_cli(server, "hget", "carousel2:{ann:a}:row", "lease_until")) > 1e12
            row = await store.commit(held, step(held, {"at/1": bytes(1000)}, ("at/0",)))
            await store.release(given_back)
            assert run_cli(server, "hexists", "carousel2:{ann:b}:row", "lease_until") == "0"
            with pytest.raises(Overloaded) as refused:
                await store.acquire("ann", "a")
            assert refused.value.limit == "redis_memory"
            run_cli(server, "config", "set", "maxmemory", "0")
            after = await take(other, "a")
            assert (after.row, after.parts) == (row, {"at/1": bytes(1000)})
            await take(other, "b")


async def test_a_deletion_that_can_be_repeated_needs_no_memory(tmp_path: Path) -> None:
    """It is written down all the same, and its repeat does nothing; a creation that is refused leaves its id free."""
    with run_redis(tmp_path) as server:
        async with opened(server) as store:
            row = await open_session(store)
            deed = Deed("ann", "r", "print", ((row.id, row.incarnation),))
            run_cli(server, "config", "set", "maxmemory", "1")
            assert await store.end(row, EndReason.DELETED, deed)
            with pytest.raises(Repeated):
                await store.end(row, EndReason.DELETED, deed)
            birth = make_birth("new")
            making = Deed("ann", "q", "print", ((birth.id, birth.incarnation),))
            with pytest.raises(Overloaded):
                await store.create([birth], making)
            run_cli(server, "config", "set", "maxmemory", "0")
            await store.create([birth], making)


async def test_memory_that_ends_in_the_middle_leaves_no_copies(tmp_path: Path) -> None:
    """Some of three are made, then Redis has no memory: refused, none is left, and the request's id is free."""
    with run_redis(tmp_path) as server:
        async with opened(server) as store:
            for num_calls in range(1, 7):
                births = [make_birth(name) for name in "abc"]
                deed = Deed("ann", "r", "print", tuple((birth.id, birth.incarnation) for birth in births))
                faults = Faults(store)

                async def fill(at: int = num_calls, counted: Faults = faults) -> None:
                    if counted.num_calls == at + 1:
                        run_cli(server, "config", "set", "maxmemory", "1")

                faults.hook = fill
                is_made = False
                with contextlib.suppress(Overloaded):
                    await store.create(births, deed)
                    is_made = True
                faults.hook = None
                rows = [await store.read("ann", name) for name in "abc"]
                assert [row is not None for row in rows] == [is_made] * 3
                assert (await store.recall("ann", "r") is not None) == is_made
                run_cli(server, "config", "set", "maxmemory", "0")
            assert is_made  # with the memory gone once all were made, it is done


async def test_the_sweep_passes_by_what_is_used_without_memory(tmp_path: Path) -> None:
    """Entries of used sessions are moved, so that those behind them are ended and free memory."""
    with run_redis(tmp_path) as server:
        async with opened(server) as store:
            await store.create([make_birth(f"{number}") for number in range(6)])
            run_cli(server, "hset", "carousel2:{ann:5}:row", "expires_at", "1")
            call_due(server)
            run_cli(server, "config", "set", "maxmemory", "1")
            assert await store.sweep(2) == 1
            assert await store.num_live() == 5


async def test_a_refusal_for_want_of_memory_is_known_by_its_words() -> None:
    """Redis 6 wraps it into an error of the script, which has no code of its own."""
    link = RedisLink("redis://localhost", None, None, 1.0)
    link._client = object()

    async def refuse(_: object) -> None:
        text = "Error running script (call to f_0a): @user_script:1: @user_script: 1: "
        raise ResponseError(f"{text}-OOM command not allowed when used memory > 'maxmemory'.")

    with pytest.raises(Overloaded):
        await link.run(refuse)
