"""A request whose server died midway is finished by its retry on any server, and done once."""

import asyncio
from typing import Any

import pytest
from tests.server.state.conftest import RedisServer, advance, make_birth, open_session
from tests.server.state.redis_opening import opened, run_cli, two

from carousel.errors import StoreUnavailable
from carousel.state.redis_deeds import Intent
from carousel.state.store import Birth, Deed, EndReason, Repeated, Row


def deed_of(births: list[Birth]) -> Deed:
    return Deed("ann", "r", "print", tuple((birth.id, birth.incarnation) for birth in births))


@pytest.mark.parametrize("num_made", [0, 1, 2])
async def test_what_a_dead_server_left_half_made_is_finished(shared_redis: RedisServer, num_made: int) -> None:
    """The recorded incarnations and state are used, although the retry itself would now start elsewhere."""
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
            held = await other.acquire("ann", name)
            assert held.parts == {"at/0": b"first"}  # type: ignore[union-attr]
        assert await other.recall("ann", "r") == deed_of(first)
        assert await other.num_live() == 3


async def test_a_deletion_that_was_written_down_is_carried_out(shared_redis: RedisServer) -> None:
    """Its retry carries it out, and only on the intended session."""
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
            assert deed is not None
            for name, incarnation in deed.targets:
                row = await servers[1].read("ann", name)
                assert isinstance(row, Row)
                assert row.incarnation == incarnation
        assert await servers[0].num_live() == 30


async def test_a_deed_lives_ten_minutes(shared_redis: RedisServer) -> None:
    """By a time to live of its key, in nasty owners' names too."""
    run_cli(shared_redis, "flushall")
    async with opened(shared_redis) as store:
        for owner in ("ann", "a:{b}\0", ""):
            birth = make_birth("s", owner)
            await store.create([birth], Deed(owner, "r", "print", ((birth.id, birth.incarnation),)))
            await advance(store, "s", owner)
            assert (await store.recall(owner, "r")) is not None
        keys = [key for key in run_cli(shared_redis, "keys", "*").split() if key.endswith(":deed")]
        assert len(keys) == 3
        assert all(590_000 < int(run_cli(shared_redis, "pttl", key)) <= 600_000 for key in keys)


async def test_a_creation_in_doubt_is_said_to_be(redis_server: RedisServer) -> None:
    """Redis fails when the session is to be written: UNAVAILABLE with `in_doubt`, and the retry settles it."""
    async with opened(redis_server) as store:
        birth = make_birth()
        enlisted = store._index.add

        async def add_and_lose(*arguments: Any) -> list[str]:
            moment = await enlisted(*arguments)
            redis_server.kill()
            return moment

        store._index.add = add_and_lose  # type: ignore[method-assign,assignment]
        with pytest.raises(StoreUnavailable) as refused:
            await store.create([birth], deed_of([birth]))
        assert refused.value.details == {"in_doubt": "true"}
        store._index.add = enlisted  # type: ignore[method-assign]
        await asyncio.to_thread(redis_server.start)
        again = make_birth()
        (row,) = await store.create([again], deed_of([again]))
        assert row.incarnation == birth.incarnation


async def test_a_deed_stays_done_when_its_id_is_made_anew(shared_redis: RedisServer) -> None:
    """The request's session was ended, and its id given to another session, which ends too: the retry creates
    nothing."""
    async with two(shared_redis) as (one, other):
        birth, again = make_birth("a"), make_birth("a")
        (row,) = await one.create([birth], deed_of([birth]))
        await one.end(row, EndReason.DELETED)
        new = await open_session(other, "a")
        for is_there in (True, False):
            assert await other.recall("ann", "r") == deed_of([birth])
            with pytest.raises(Repeated):
                await other.create([again], deed_of([again]))
            found = await other.read("ann", "a")
            assert found is not None
            assert (isinstance(found, Row), found.incarnation) == (is_there, new.incarnation)
            await other.end(new, EndReason.DELETED)


async def test_what_was_made_and_ended_is_not_made_by_a_repeat(shared_redis: RedisServer) -> None:
    """A server died before it recorded completion, and one of the sessions was deleted since."""
    async with two(shared_redis) as (dead, other):
        births = [make_birth(name) for name in "abc"]
        await dead._deeds.record(Intent(deed_of(births), tuple(births)))
        rows = await dead.create(births[:2])
        await other.end(rows[0], EndReason.DELETED)
        again = [make_birth(name) for name in "abc"]
        with pytest.raises(Repeated) as repeated:
            await other.create(again, deed_of(again))
        assert repeated.value.deed == deed_of(births) == await other.recall("ann", "r")
        assert not isinstance(await other.read("ann", "a"), Row)
        assert [(await other.read("ann", birth.id)).incarnation for birth in births] == [  # type: ignore[union-attr]
            birth.incarnation for birth in births
        ]


@pytest.mark.parametrize("num_namesakes", [1, 16])
async def test_what_was_made_and_ended_is_told_from_its_namesakes(
    shared_redis: RedisServer, num_namesakes: int
) -> None:
    """A server died before it said that all was done; what it made was deleted since, and its id used again."""
    async with two(shared_redis) as (dead, other):
        birth, again = make_birth("a"), make_birth("a")
        await dead._deeds.record(Intent(deed_of([birth]), (birth,)))
        (row,) = await dead.create([birth])
        for _ in range(num_namesakes):
            await other.end(row, EndReason.DELETED)
            row = await open_session(other, "a")
        with pytest.raises(Repeated) as repeated:
            await other.create([again], deed_of([again]))
        assert repeated.value.deed == deed_of([birth]) == await other.recall("ann", "r")
        assert await other.read("ann", "a") == row


async def test_what_is_known_of_namesakes_is_bounded(shared_redis: RedisServer) -> None:
    """An id that is used again and again costs no more and no more."""
    async with two(shared_redis) as (store, _):
        for _ in range(30):
            row = await open_session(store, "a")
            await store.end(row, EndReason.DELETED)
        past = run_cli(shared_redis, "hget", "carousel2:{ann:a}:row", "past")
        assert len(past.split()) == 16


async def test_a_deed_that_is_done_costs_little(shared_redis: RedisServer) -> None:
    """The states of its sessions are kept only until they are created, although the deed stays for ten minutes."""
    async with two(shared_redis) as (store, _):
        births = [make_birth(name, parts={"at/0": bytes(100_000)}) for name in "abc"]
        await store.create(births, deed_of(births))
        key = "carousel2:{ann:r}:deed"
        assert int(run_cli(shared_redis, "strlen", key)) < 300
        assert 590_000 < int(run_cli(shared_redis, "pttl", key)) <= 600_000


async def test_states_that_differ_are_written_down_each(shared_redis: RedisServer) -> None:
    """A retry that finishes the request gives every session its own."""
    async with two(shared_redis) as (dead, other):
        births = [make_birth(name, parts={"at/0": part}) for name, part in zip("abc", (b"x", b"y", b"x"), strict=True)]
        await dead._deeds.record(Intent(deed_of(births), tuple(births)))
        await other.create(births, deed_of(births))
        parts = [(await other.acquire("ann", name)).parts["at/0"] for name in "abc"]  # type: ignore[union-attr]
        assert parts == [b"x", b"y", b"x"]


async def test_another_request_with_the_id_of_a_dead_one_is_told(shared_redis: RedisServer) -> None:
    """A request id is bound to its contents from the moment it is written down; nothing is made or ended."""
    async with two(shared_redis) as (dead, other):
        births = [make_birth("a")]
        await dead._deeds.record(Intent(deed_of(births), tuple(births)))
        row = await open_session(other, "b")
        others = Deed("ann", "r", "other print", (("b", row.incarnation),))
        with pytest.raises(Repeated):
            await other.create([make_birth("c")], others)
        with pytest.raises(Repeated):
            await other.end(row, EndReason.DELETED, others)
        assert await other.read("ann", "b") == row
        assert await other.num_live() == 1
