"""Who makes room in a full SQLite store, and what is refused before it is done."""

from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, advance, make_birth, open_session, step, take
from tests.server.state.opening import opened

from carousel.errors import Overloaded, SessionExists
from carousel.shares import OwnerLimits
from carousel.state.store import Capacity, Ending, EndReason

ONE = Capacity(max_sessions=1, max_bytes=2**30, evicts=True)
FULL = Capacity(max_sessions=3, max_bytes=10_000, evicts=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


async def test_a_due_session_is_no_obstacle(path: Path) -> None:
    """A creation under its id, or where it takes the last place, ends it, with no sweep before."""
    clock, told = FakeClock(NOW), list[Ending]()
    async with opened(path, FULL, clock=clock, told=told.append) as store:
        for name in "abc":
            await open_session(store, name)
        held = await take(store, "c")
        clock.advance(LONG.idle)
        await open_session(store, "b")
        await open_session(store, "d")
        assert sorted((ending.id, ending.reason) for ending in told) == [("a", "idle"), ("b", "idle")]
        with pytest.raises(SessionExists):
            await open_session(store, "c")
        with pytest.raises(Overloaded):
            await open_session(store, "e")
        await store.release(held)
        await open_session(store, "e")


async def test_room_is_set_aside_before_the_turn(path: Path) -> None:
    """Without eviction, a turn that could exceed the bytes is refused at its start, and an admitted turn is never
    refused later, whatever happens in between; unused room is free again."""
    async with opened(path, FULL) as store:
        await open_session(store, "a")
        await open_session(store, "b")
        first = await take(store, "a", room=6000)
        with pytest.raises(Overloaded) as refused:
            await store.acquire("ann", "b", 4000)
        assert refused.value.limit == "max_session_bytes"
        with pytest.raises(Overloaded):
            await store.create([make_birth("c", parts={"x": bytes(4000)})])
        await store.commit(first, step(first, {"x": bytes(6000)}))
        with pytest.raises(Overloaded):
            await store.acquire("ann", "b", 4000)
        await store.release(first)
        second = await take(store, "b", room=3000)
        await store.release(second)
        await store.release(await take(store, "b", room=3000))
        await store.create([make_birth("c", parts={"x": bytes(2700)})])


async def test_a_commit_does_not_count_twice(path: Path) -> None:
    """Room that was set aside is not reckoned beside what the turn wrote."""
    async with opened(path, FULL) as store:
        await open_session(store, "a")
        await open_session(store, "b")
        held = await take(store, "a", room=4000)
        await store.commit(held, step(held, {"x": bytes(4000)}))
        other = await take(store, "b", room=4000)
        await store.commit(other, step(other, {"x": bytes(4000)}))


async def test_an_owner_has_limits_of_his_own(path: Path) -> None:
    """An owner's limits refuse, or evict, only its own sessions; the refusal names the setting."""
    limits = OwnerLimits(max_sessions=2, max_bytes=5000)
    async with opened(path, Capacity(99, 2**30, evicts=False, owner_limits=limits)) as store:
        await open_session(store, "a")
        await open_session(store, "b")
        for call, limit in (
            (store.create([make_birth("c")]), "max_sessions_per_owner"),
            (store.acquire("ann", "a", 4500), "max_session_bytes_per_owner"),
        ):
            with pytest.raises(Overloaded) as refused:
                await call
            assert refused.value.limit == limit
        with pytest.raises(Overloaded) as refused:
            await store.create([make_birth("c", "bob", parts={"x": bytes(5000)})])
        assert refused.value.limit == "max_session_bytes_per_owner"
        await store.create([make_birth("c", "bob")])
    told: list[Ending] = []
    async with opened(path, Capacity(99, 2**30, evicts=True, owner_limits=limits), told=told.append) as store:
        await store.create([make_birth("d", "ann")])
        held = await take(store, "b")
        await store.commit(held, step(held, {"x": bytes(4500)}))
        await store.release(held)
        assert [ending.id for ending in told] == ["a"]
        assert await store.sweep(9) == 1
        assert [(ending.owner, ending.id) for ending in told] == [("ann", "a"), ("ann", "d")]


async def test_who_uses_most_makes_room(path: Path) -> None:
    """A full store ends the least recently used session of the owner furthest above his share, none that is in use and
    none of an owner within it; also after a restart."""
    clock, told = FakeClock(NOW), list[Ending]()
    capacity = Capacity(max_sessions=6, max_bytes=2**30, evicts=True)
    async with opened(path, capacity, clock=clock, told=told.append) as store:
        for name in ("b1", "b2"):
            await open_session(store, name, "bob")
        for name in ("a1", "a2", "a3", "a4"):
            clock.advance(1)
            await open_session(store, name)
        await advance(store, "a1")
    async with opened(path, capacity, clock=clock, told=told.append) as store:
        held = await take(store, "a2")
        await open_session(store, "b3", "bob")  # ann has 4, her share is 3
        assert [ending.id for ending in told] == ["a3"]
        await open_session(store, "b4", "bob")  # both have 3: who asks gives
        assert [ending.id for ending in told] == ["a3", "b1"]
        await open_session(store, "c1", "cid")  # shares are 2 now
        await open_session(store, "c2", "cid")
        assert sorted(ending.owner for ending in told[2:]) == ["ann", "bob"]
        assert "a2" not in {ending.id for ending in told}
        await store.release(held)


async def test_what_is_in_use_or_within_a_share_is_not_evicted(path: Path) -> None:
    """When all sessions of the largest owner are in use, the next owner above its share loses one; when none may, the
    request is refused without any eviction."""
    told: list[Ending] = []
    async with opened(path, Capacity(6, 10_000, evicts=True), told=told.append) as store:
        for name in ("a1", "a2", "a3"):
            await open_session(store, name)
            await take(store, name)
        for name in ("b1", "b2"):
            await open_session(store, name, "bob")
        await open_session(store, "c1", "cid")
        with pytest.raises(Overloaded) as refused:
            await store.create([make_birth("big", "cid", parts={"x": bytes(9000)})])
        assert (refused.value.limit, told) == ("max_session_bytes", [])
        await open_session(store, "d1", "dan")  # the share is 1.5: bob is above it, cid is not
        assert [ending.id for ending in told] == ["b1"]
        await take(store, "d1", "dan")
        with pytest.raises(Overloaded) as refused:
            await open_session(store, "d2", "dan")
        assert (refused.value.limit, len(told)) == ("max_sessions", 1)
        assert await store.num_live() == 6


async def test_growth_is_evicted_afterwards(path: Path) -> None:
    """Where it may evict, turns pass the bytes and the sweep makes up for it, the largest owner first."""
    told: list[Ending] = []
    async with opened(path, Capacity(9, 10_000, evicts=True), told=told.append) as store:
        for owner in ("ann", "bob"):
            await open_session(store, "s", owner)
        held = await take(store, owner="bob", room=2**20)
        await store.commit(held, step(held, {"x": bytes(12_000)}))
        assert await store.sweep(9) == 0  # it is in use, and ann is within her share
        await store.release(held)
        assert await store.sweep(9) == 1
        assert [(ending.owner, ending.reason) for ending in told] == [("bob", EndReason.EVICTED)]


async def test_equals_do_not_feed_on_each_other(path: Path) -> None:
    """Among owners with equal use, or within their share, an owner that asks for more loses its own."""
    told: list[Ending] = []
    async with opened(path, Capacity(7, 2**30, evicts=True), told=told.append) as store:
        for owner, count in (("ann", 3), ("bob", 3), ("cid", 1)):
            for number in range(count):
                await open_session(store, str(number), owner)
        await open_session(store, "new", "bob")
        await open_session(store, "new", "ann")
        assert [(ending.owner, ending.id) for ending in told] == [("bob", "0"), ("ann", "0")]
    told.clear()
    other = path.with_name("other.db")
    async with opened(other, Capacity(7, 10_000, evicts=True), told=told.append) as store:
        await store.create([make_birth(parts={"x": bytes(3600)})])
        await store.create([make_birth("s", "bob", parts={"x": bytes(600)})])
        await store.create([make_birth("t", "bob", parts={"x": bytes(5500)})])
        assert [ending.owner for ending in told] == ["bob"]
