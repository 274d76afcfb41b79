"""What is particular to a store that servers share: what one does, others see; keys, indices, limits."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.server.state.conftest import (
    RedisServer,
    advance,
    make_birth,
    open_session,
    take,
)
from tests.server.state.redis_opening import call_due, opened, run_cli, two

from carousel.errors import Overloaded, SessionExists
from carousel.shares import OwnerLimits
from carousel.state.redis_deeds import Intent
from carousel.state.redis_index import Entry
from carousel.state.store import Birth, Change, Deed, Durability, Ending, EndReason, Lifetimes, Row


async def test_servers_see_each_others_sessions(shared_redis: RedisServer) -> None:
    """What one server does, another goes on with; lists, counts and endings are the same everywhere."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        with pytest.raises(SessionExists):
            await other.create([make_birth()])
        for store in (one, other, one, one, other):
            row = await advance(store)
        assert (await one.read("ann", "s"), await other.list_owned("ann", (0.0, ""), 9)) == (row, [row])
        held = await take(one)
        assert len(held.parts) == 6
        await one.release(held)
        assert one.durability is Durability.EACH_TURN
        assert await other.num_live() == 1
        assert [await store.end(row, EndReason.DELETED) for store in (one, other)] == [True, False]
        ending = await other.acquire("ann", "s")
        assert isinstance(ending, Ending)
        assert (ending.reason, ending.incarnation) == (EndReason.DELETED, row.incarnation)


async def test_a_change_that_is_sent_again_is_told_of_itself(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost answer, another server may move the session on before the retry: the first change reports its own
    position and revision, not those of the second."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        await advance(one)  # Redis knows the script now
        held = await take(one)
        exchange = one._link._exchange

        async def lose_first(commands: Sequence[Any]) -> list[Any]:
            outcomes = await exchange(commands)
            monkeypatch.undo()
            assert (await advance(other)).revision == held.row.revision + 2
            return [ConnectionError()] * len(outcomes)

        monkeypatch.setattr(one._link, "_exchange", lose_first)
        row = await one.commit(held, Change(7, {}))
        assert (row.position, row.revision) == (7, held.row.revision + 1)
        found = await one.read("ann", "s")
        assert isinstance(found, Row)
        assert (found.position, found.revision) == (8, held.row.revision + 2)
        assert (await advance(one)).revision == found.revision + 1


async def test_parts_that_are_known_do_not_travel(shared_redis: RedisServer) -> None:
    """A server that made the last change is not sent the parts again; one that did not is."""
    async with two(shared_redis) as (one, other):
        await one.create([make_birth(parts={"large": bytes(1_000_000)})])
        await advance(one)
        before = _sent(shared_redis)
        await advance(one)
        assert _sent(shared_redis) - before < 100_000
        await advance(other)
        assert _sent(shared_redis) - before > 1_000_000
        held = await take(one)
        assert len(held.parts) == 4


def _sent(server: RedisServer) -> int:
    lines = dict(line.split(":", 1) for line in run_cli(server, "info", "stats").split() if ":" in line)
    return int(lines["total_net_output_bytes"])


async def test_redis_keeps_what_ended_for_a_while(shared_redis: RedisServer) -> None:
    """Every key of a session expires by itself: after its life and the time for which an ending is remembered."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(100.0, 1000.0)) as store:
        row = await open_session(store, "a")
        assert 155_000 < _ttl(shared_redis, "carousel2:{ann:a}:row") <= 160_000
        assert 155_000 < _ttl(shared_redis, "carousel2:{ann:a}:parts") <= 160_000
        await advance(store, "a")
        assert 155_000 < _ttl(shared_redis, "carousel2:{ann:a}:parts") <= 160_000
        await store.end(row, EndReason.DELETED)
        assert 55_000 < _ttl(shared_redis, "carousel2:{ann:a}:row") <= 60_000
        kept = {"carousel2:{ann:a}:row", "carousel2:endings:{ann}", "carousel2:format"}
        assert set(run_cli(shared_redis, "keys", "*").split()) == kept


def _ttl(server: RedisServer, key: str) -> int:
    return int(run_cli(server, "pttl", key))


async def test_index_entries_without_a_session_are_removed(shared_redis: RedisServer) -> None:
    """What a crash left in the indices is neither listed nor counted after it was met, unless it is young: then it may
    be of a session that is being made."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(0.05, 9.0)) as store:
        for name in "abc":
            await open_session(store, name)
        run_cli(
            shared_redis, "del", *(f"carousel2:{{ann:{name}}}:{kind}" for name in "abc" for kind in ("row", "parts"))
        )
        assert await store.list_owned("ann", (0.0, ""), 9) == []
        assert await store.num_live() == 3
        entries = run_cli(shared_redis, "zrange", "carousel2:owner:{ann}", "0", "-1").split()
        assert len(entries) == 3
        await asyncio.to_thread(_age, shared_redis, "carousel2:owner:{ann}")
        assert await store.list_owned("ann", (0.0, ""), 9) == []
        assert await store.num_live() == 0
        await open_session(store, "d")
        run_cli(shared_redis, "del", "carousel2:{ann:d}:row", "carousel2:{ann:d}:parts")
        await asyncio.sleep(0.06)  # until it is due by the clock of Redis
        assert await store.sweep(9) == 0
        assert run_cli(shared_redis, "keys", "*") == "carousel2:format"


def _age(server: RedisServer, key: str) -> None:
    """As if the entries had been made two minutes ago."""
    script = "for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], -120, m) end"
    run_cli(server, "eval", script, "1", key)


async def test_a_row_reads_the_same_everywhere(shared_redis: RedisServer) -> None:
    """Large numbers and fractions of seconds come back bit for bit on another server."""
    async with two(shared_redis) as (one, other):
        (row,) = await one.create([Birth("s", "ann", 2**62 - 1, 2**53 + 1, {})])
        assert (row.incarnation, row.position) == (2**62 - 1, 2**53 + 1)
        held = await take(other)
        assert held.row == row
        await other.release(held)


async def test_a_limit_of_sessions_per_owner(shared_redis: RedisServer) -> None:
    """Counted for each owner; at it the next is Overloaded by the limit's name, until one has ended."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, owner_limits=OwnerLimits(max_sessions=2)) as store:
        row = await open_session(store, "a")
        for number in range(2):
            with pytest.raises(Overloaded) as refused:
                await store.create([make_birth("b"), make_birth(f"c{number}")])
            assert refused.value.limit == "max_sessions_per_owner"
        await open_session(store, "b")
        await open_session(store, "b", "bob")
        await store.end(row, EndReason.DELETED)
        await open_session(store, "c")


async def test_creations_at_once_do_not_pass_an_owners_limit(shared_redis: RedisServer) -> None:
    """Places are given and counted in one step, whichever server asks; who has a place already needs no other one."""
    run_cli(shared_redis, "flushall")
    limits = OwnerLimits(max_sessions=5)
    async with opened(shared_redis, owner_limits=limits) as one, opened(shared_redis, owner_limits=limits) as other:
        works = [store.create([make_birth(f"{n}")]) for n, store in enumerate([one, other] * 10)]
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        assert sum(isinstance(outcome, list) for outcome in outcomes) == 5
        assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 15
        assert len(await one.list_owned("ann", (0.0, ""), 99)) == await other.num_live() == 5


async def test_a_request_that_was_cut_off_at_the_limit_is_finished(shared_redis: RedisServer) -> None:
    """The places of its sessions are its own."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis, owner_limits=OwnerLimits(max_sessions=3)) as store:
        births = [make_birth(name) for name in "abc"]
        deed = Deed("ann", "r", "print", tuple((birth.id, birth.incarnation) for birth in births))
        await store._deeds.record(Intent(deed, tuple(births)))
        await store.create(births[:2])
        await open_session(store, "x", "bob")
        assert len(await store.create(births, deed)) == 3


async def test_a_session_is_listed_where_it_was_made(shared_redis: RedisServer) -> None:
    """The moment of the list is that of the row, also when the row was made later than its entry."""
    async with two(shared_redis) as (store, _):
        births = [make_birth(name) for name in "ab"]
        for birth in births:
            await store._index.add([Entry.of(birth)], 10_000)
        rows = [(await store.create([birth]))[0] for birth in reversed(births)]
        assert await store.list_owned("ann", (0.0, ""), 9) == rows[::-1]
        assert await store.list_owned("ann", (rows[1].created_at, "a"), 9) == rows[:1]


async def test_what_two_servers_made_at_once_is_listed_once(shared_redis: RedisServer) -> None:
    """A request and its retry run on two servers at once: pages use the time that a session got first, and so they
    end."""
    async with two(shared_redis) as servers:
        for number in range(10):
            sets = [[make_birth(f"{number}{name}") for name in "abc"] for _ in servers]
            deeds = [
                Deed("ann", f"r{number}", "print", tuple((b.id, b.incarnation) for b in births)) for births in sets
            ]
            works = (store.create(*one) for store, one in zip(servers, zip(sets, deeds, strict=True), strict=True))
            await asyncio.gather(*works, return_exceptions=True)
        ids: list[str] = []
        after = (0.0, "")
        while len(ids) < 99 and (rows := await servers[0].list_owned("ann", after, 1)):
            ids.append(rows[0].id)
            after = (rows[0].created_at, rows[0].id)
        assert len(ids) == len(set(ids)) == 30


async def test_endings_are_bounded_for_each_owner(shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an owner's ended sessions the newest are remembered; one that was made anew meanwhile stays."""
    monkeypatch.setattr("carousel.state.redis_endings.MAX_ENDINGS_PER_OWNER", 3)
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        await store.end(await open_session(store, "mine", "bob"), EndReason.DELETED)
        for number in range(6):
            await store.end(await open_session(store, str(number)), EndReason.DELETED)
            if number == 2:
                await open_session(store, "0")
        found = [type(await store.read("ann", str(number))).__name__ for number in range(6)]
        assert found == ["Row", "NoneType", "NoneType", "Ending", "Ending", "Ending"]
        assert isinstance(await store.read("bob", "mine"), Ending)


async def test_an_entry_of_a_namesake_is_removed(shared_redis: RedisServer) -> None:
    """A server died after it ended a session and before it removed the entry; another session has the id by then."""
    async with two(shared_redis) as (store, dead):
        row = await open_session(store)
        await store.end(row, EndReason.DELETED)
        await dead._index.add([Entry.of(row)], 10_000)
        await open_session(store)
        assert await store.num_live() == 2
        call_due(shared_redis)
        assert await store.sweep(9) == 0
        assert await store.num_live() == 1
        assert int(run_cli(shared_redis, "zcard", "carousel2:owner:{ann}")) == 1
