"""A request whose server died in the middle is finished by its repeat, wherever that comes, and done once."""

import asyncio
from typing import Any

import pytest
from tests.server.state.conftest import RedisServer, advance, make_birth, open_session
from tests.server.state.test_redis_store import _run, opened, two

from carousel.errors import Overloaded, SessionExists, StoreUnavailable
from carousel.shares import OwnerLimits
from carousel.state.redis_deeds import Intent
from carousel.state.redis_index import Entry
from carousel.state.redis_store import RedisStore
from carousel.state.store import Birth, Deed, EndReason, Repeated, Row


def deed_of(births: list[Birth]) -> Deed:
    return Deed("ann", "r", "print", tuple((birth.id, birth.incarnation) for birth in births))


@pytest.mark.parametrize("num_made", [0, 1, 2])
async def test_what_a_dead_server_left_half_made_is_finished(shared_redis: RedisServer, num_made: int) -> None:
    """With the incarnations and the state that were written down, although the repeat would begin elsewhere by now."""
    async with two(shared_redis) as (dead, other):
        first = [make_birth(name, parts={"at/0": b"first"}) for name in "abc"]
        await dead._deeds.record(Intent(deed_of(first), tuple(first)))
        if num_made:
            await dead.create(first[:num_made])
        assert await other.recall("ann", "r") is None
        again = [make_birth(name, parts={"at/0": b"later"}, position=7) for name in "abc"]
        rows = await other.create(again, deed_of(again))
        assert [row.incarnation for row in rows] == [birth.incarnation for birth in first]
        assert {row.position for row in rows} == {0}
        for name in "abc":
            held = await other.take("ann", name)
            assert held.parts == {"at/0": b"first"}  # type: ignore[union-attr]
        assert await other.recall("ann", "r") == deed_of(first)
        assert await other.num_live() == 3


async def test_what_a_repeat_has_made_is_not_undone(shared_redis: RedisServer) -> None:
    """The first, whose write stays in doubt, leaves alone what its repeat on another server has made and told."""
    async with two(shared_redis) as (first, other):
        is_told = asyncio.Event()
        make = first._make

        async def make_or_lose(birth: Birth, created_at: str) -> Row:
            if birth.id != "c":
                return await make(birth, created_at)
            await is_told.wait()
            raise StoreUnavailable("no answer")

        first._make = make_or_lose  # type: ignore[method-assign]
        _run(shared_redis, "flushall")
        births, again = ([make_birth(name) for name in "abc"] for _ in range(2))
        creating = asyncio.ensure_future(first.create(births, deed_of(births)))
        while await first.num_live() < 3:
            await asyncio.sleep(0.01)
        rows = await other.create(again, deed_of(again))
        is_told.set()
        with pytest.raises(StoreUnavailable):
            await creating
        assert [await other.read("ann", row.id) for row in rows] == rows


async def test_what_is_half_made_is_finished_at_the_owners_limit(shared_redis: RedisServer) -> None:
    """What a request has made already does not stand in the way of the rest of it; one more is refused."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, owner_limits=OwnerLimits(max_sessions=3)) as store:
        first = [make_birth(name) for name in "abc"]
        await store._deeds.record(Intent(deed_of(first), tuple(first)))
        await store._index.add([Entry.of(birth) for birth in first], 60_000)
        await store._make(first[0], (await store._index.add([Entry.of(first[0])], 60_000))[0])
        again = [make_birth(name) for name in "abc"]
        assert len(await store.create(again, deed_of(again))) == 3
        with pytest.raises(Overloaded):
            await open_session(store, "d")


async def test_a_deletion_that_was_written_down_is_carried_out(shared_redis: RedisServer) -> None:
    """By its repeat, and to the session that was meant alone."""
    async with two(shared_redis) as (dead, other):
        row = await open_session(dead)
        deed = Deed("ann", "r", "print", ((row.id, row.incarnation),))
        await dead._deeds.record(Intent(deed))
        assert await other.recall("ann", "r") is None
        with pytest.raises(Repeated):
            await other.end(row, EndReason.DELETED, deed_again := Deed("ann", "r", "print", (("s", 5),)))
        assert deed_again != deed
        assert not isinstance(await other.read("ann", "s"), Row)
        assert await other.recall("ann", "r") == deed
        new = await open_session(other)
        with pytest.raises(Repeated):
            await dead.end(new, EndReason.DELETED, Deed("ann", "r", "print", ((new.id, new.incarnation),)))
        assert await other.read("ann", "s") == new


async def test_a_repeat_beside_the_first_makes_the_same(shared_redis: RedisServer) -> None:
    """Two servers carry out one request at once: one session of each id, the same for both."""
    async with two(shared_redis) as servers:
        for number in range(10):
            names = [f"{number}-{name}" for name in "abc"]
            sets = [[make_birth(name) for name in names] for _ in servers]
            deeds = [
                Deed("ann", f"r{number}", "print", tuple((b.id, b.incarnation) for b in births)) for births in sets
            ]
            works = (store.create(*one) for store, one in zip(servers, zip(sets, deeds, strict=True), strict=True))
            outcomes = await asyncio.gather(*works, return_exceptions=True)
            assert all(isinstance(one, list | Repeated) for one in outcomes)
            deed = await servers[0].recall("ann", f"r{number}")
            assert deed in deeds
            for name, incarnation in deed.targets:  # type: ignore[union-attr]
                assert (await servers[1].read("ann", name)).incarnation == incarnation  # type: ignore[union-attr]
        assert await servers[0].num_live() == 30


async def test_a_deed_lives_ten_minutes(shared_redis: RedisServer) -> None:
    """By a time to live of its key, in nasty owners' names too."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        for owner in ("ann", "a:{b}\0", ""):
            birth = make_birth("s", owner)
            await store.create([birth], Deed(owner, "r", "print", ((birth.id, birth.incarnation),)))
            await advance(store, "s", owner)
            assert (await store.recall(owner, "r")) is not None
        keys = [key for key in _run(shared_redis, "keys", "*").split() if key.endswith(":deed")]
        assert len(keys) == 3
        assert all(590_000 < int(_run(shared_redis, "pttl", key)) <= 600_000 for key in keys)


async def test_a_creation_in_doubt_is_said_to_be(redis_server: RedisServer) -> None:
    """Redis is gone when the session is to be written: UNAVAILABLE with `in_doubt`, and the repeat settles it."""
    async with opened(redis_server) as store:
        birth = make_birth()
        enlisted = store._index.add

        async def add_and_lose(*arguments: Any) -> list[str]:
            moments = await enlisted(*arguments)
            redis_server.kill()
            return moments

        store._index.add = add_and_lose  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable) as refused:
            await store.create([birth], deed_of([birth]))
        assert refused.value.details == {"in_doubt": "true"}
        store._index.add = enlisted  # type: ignore[method-assign]
        await asyncio.to_thread(redis_server.start)
        again = make_birth()
        (row,) = await store.create([again], deed_of([again]))
        assert row.incarnation == birth.incarnation


async def _page_through(store: RedisStore, most: int) -> list[str]:
    """The ids on pages of one, at most so many."""
    ids: list[str] = []
    after = (0.0, "")
    while len(ids) < most and (rows := await store.list_owned("ann", after, 1)):
        ids.append(rows[0].id)
        after = (rows[0].created_at, rows[0].id)
    return ids


async def test_what_a_repeat_has_finished_is_listed_once(shared_redis: RedisServer) -> None:
    """Pages go by the moment that a session was given first, so that they come to an end."""
    _run(shared_redis, "flushall")
    async with two(shared_redis) as (dead, other):
        first = [make_birth(name) for name in "abc"]
        await dead._deeds.record(Intent(deed_of(first), tuple(first)))
        await dead.create(first[1:2])
        again = [make_birth(name) for name in "abc"]
        await other.create(again, deed_of(again))
        assert sorted(await _page_through(other, 9)) == ["a", "b", "c"]


async def test_what_two_servers_made_at_once_is_listed_once(shared_redis: RedisServer) -> None:
    """A request and its repeat on another server, while the first still runs."""
    _run(shared_redis, "flushall")
    async with two(shared_redis) as servers:
        for number in range(10):
            sets = [[make_birth(f"{number}{name}") for name in "abc"] for _ in servers]
            deeds = [Deed("ann", f"r{number}", "print", deed_of(births).targets) for births in sets]
            works = (store.create(*one) for store, one in zip(servers, zip(sets, deeds, strict=True), strict=True))
            await asyncio.gather(*works, return_exceptions=True)
        ids = await _page_through(servers[0], 99)
        assert len(ids) == len(set(ids)) == 30


async def test_what_is_done_needs_no_states_any_more(shared_redis: RedisServer) -> None:
    """A deed keeps the states of its sessions only until they are made; its time to live stays as it was."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        births = [make_birth(name, parts={"at/0": b"x" * 5_000}) for name in "ab"]
        await store.create(births, deed_of(births))
        (key,) = [key for key in _run(shared_redis, "keys", "*").split() if key.endswith(":deed")]
        assert len(_run(shared_redis, "get", key)) < 500
        assert 590_000 < int(_run(shared_redis, "pttl", key)) <= 600_000
        assert await store.recall("ann", "r") == deed_of(births)


async def test_a_creation_in_doubt_that_was_made_is_listed(shared_redis: RedisServer) -> None:
    """Its entry stays when the answer is lost: else the session would live on and nobody would see or count it. Those
    that were refused leave none."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        birth = make_birth()
        make = store._make

        async def make_and_lose(birth: Birth, created_at: str) -> Row:
            await make(birth, created_at)
            raise StoreUnavailable("the answer is lost")

        store._make = make_and_lose  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await store.create([birth])
        with pytest.raises(SessionExists):
            await store.create([make_birth()])
        assert [row.incarnation for row in await store.list_owned("ann", (0.0, ""), 9)] == [birth.incarnation]
        assert await store.num_live() == 1


async def test_a_deletion_with_an_id_frees_memory_that_there_is_none_of(redis_server: RedisServer) -> None:
    """Where Redis is out of memory, who deletes his session makes room, and his request is remembered with it."""
    async with opened(redis_server) as store:
        for number in range(30):
            await store.create([make_birth(f"s{number}", parts={"at/0": b"x" * 100_000})])
        _run(redis_server, "config", "set", "maxmemory", "3000000")
        with pytest.raises(Overloaded):
            await store.create([make_birth("more")])
        for number in range(30):
            row = await store.read("ann", f"s{number}")
            assert isinstance(row, Row)
            deed = Deed("ann", f"r{number}", "print", ((row.id, row.incarnation),))
            assert await store.end(row, EndReason.DELETED, deed)
        assert await store.recall("ann", "r29") is not None
        await store.create([make_birth("more")])
