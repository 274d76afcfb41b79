"""A store in memory keeps its bounds: the least used sessions of the owner with the most make room."""

import random

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import make_birth, open_session, step, take
from tests.server.state.memory_stores import TIGHT, make_store, sweep_all

from carousel.errors import Overloaded
from carousel.shares import OwnerLimits
from carousel.state.store import Capacity, Ending, Held


async def test_looking_is_not_using(told: list[Ending], clock: FakeClock) -> None:
    """Reading and listing do not save a session from eviction; taking it does."""
    store = await make_store(told, clock, TIGHT)
    for name in "abcde":
        await open_session(store, name)
    await store.read("ann", "a")
    await store.list_owned("ann", (0.0, ""), 1)
    await store.release(await take(store, "b"))
    for name in "fg":
        await open_session(store, name)
    assert [ending.id for ending in told] == ["a", "c"]


async def test_the_end_of_a_turn_is_a_use(told: list[Ending], clock: FakeClock) -> None:
    """Of two that were taken, the one with the later commit is evicted later."""
    store = await make_store(told, clock, Capacity(2, 2**30, evicts=True))
    await open_session(store, "a")
    await open_session(store, "b")
    held = [await take(store, name) for name in "ab"]
    await store.commit(held[0], step(held[0], {}))
    for one in held:
        await store.release(one)
    await open_session(store, "c")
    assert [ending.id for ending in told] == ["b"]


async def test_what_a_session_gains_counts(told: list[Ending], clock: FakeClock) -> None:
    """Bytes that turns add and drop count, so that growth makes the next creation evict."""
    store = await make_store(told, clock, TIGHT)
    await store.create([make_birth("a", parts={"x": bytes(4000)})])
    await store.create([make_birth("b", parts={})])
    held = await take(store, "b")
    await store.commit(held, step(held, {"x": bytes(4000)}))
    await store.release(held)
    await store.create([make_birth("c", parts={"x": bytes(3000)})])
    assert [ending.id for ending in told] == ["a"]
    held = await take(store, "b")
    await store.commit(held, step(held, {}, ("x",)))
    await store.release(held)
    await store.create([make_birth("d", parts={"x": bytes(3000)})])
    assert len(told) == 1


async def test_growth_beyond_a_bound_is_swept(told: list[Ending], clock: FakeClock) -> None:
    """When turns have grown sessions beyond the bytes of all or of their owner, the owner with the most loses its least
    recently used sessions until all fits; sessions in use and other owners' sessions stay."""
    store = await make_store(told, clock, Capacity(99, 20_000, True, OwnerLimits(max_bytes=12_000)))
    for owner, count in (("ann", 4), ("bob", 3)):
        for number in range(count):
            await store.create([make_birth(f"{owner} {number}", owner, {"x": bytes(1000)})])
    assert await sweep_all(store) == 0
    held = [await take(store, "ann 0"), await take(store, "ann 1", room=2**40)]  # no need for room where others go
    await store.commit(held[1], step(held[1], {"y": bytes(7000)}))
    assert (await store.sweep(1), len(told)) == (1, 1)
    assert await sweep_all(store) == 1
    assert [ending.id for ending in told] == ["ann 2", "ann 3"]
    grown = await take(store, "bob 1", "bob")
    await store.commit(grown, step(grown, {"y": bytes(8500)}))
    for one in (*held, grown):
        await store.release(one)
    assert store._room.bytes.total == 2 * 1700 + 7000 + 3 * 1700 + 8500
    assert await sweep_all(store) == 3  # for his own bound bob, then bob with the most, then ann with the most
    assert [ending.id for ending in told[2:]] == ["bob 0", "bob 2", "ann 0"]
    assert await sweep_all(store) == 0


async def test_who_is_refused_has_cost_nobody_a_session(told: list[Ending], clock: FakeClock) -> None:
    """Nothing is evicted when the new sessions can never fit: too many at once, or too large."""
    store = await make_store(told, clock, TIGHT)
    for name in "abcde":
        await open_session(store, name)
    held = [await take(store, name) for name in "abc"]
    with pytest.raises(Overloaded) as refused:
        await store.create([make_birth(name) for name in "xyz"])
    assert refused.value.limit == "max_sessions"
    with pytest.raises(Overloaded) as refused:
        await store.create([make_birth("x", parts={"x": bytes(10_000)})])
    assert refused.value.limit == "max_session_bytes"
    assert (told, await store.num_live()) == ([], 5)
    await store.create([make_birth(name) for name in "xy"])
    assert [ending.id for ending in told] == ["d", "e"]
    assert len(held) == 3


async def test_a_newcomer_gets_his_share_from_whoever_is_above_it(told: list[Ending], clock: FakeClock) -> None:
    """When all sessions of the largest owner are in use, the next owner above its share loses one; never an owner below
    its share."""
    store = await make_store(told, clock, Capacity(12, 2**30, evicts=True))
    for owner, count in (("ann", 5), ("bob", 4), ("cid", 3)):
        for number in range(count):
            await open_session(store, f"{owner} {number}", owner)
    for number in range(5):
        await take(store, f"ann {number}")
    await open_session(store, "first", "dan")  # a share is 3: ann's are in use, bob is above
    assert [ending.id for ending in told] == ["bob 0"]
    for owner, numbers in (("bob", (1, 2, 3)), ("cid", (0, 1, 2))):
        for number in numbers:
            await take(store, f"{owner} {number}", owner)
    with pytest.raises(Overloaded, match="12 sessions"):
        await open_session(store, "first", "eve")  # a share is 2.4, and dan has one
    assert "dan" not in {ending.owner for ending in told}


async def test_a_second_release_gives_nobody_elses_turn_back(told: list[Ending], clock: FakeClock) -> None:
    """Two turns hold a session: releasing one twice leaves the other's hold and room unchanged."""
    store = await make_store(told, clock, Capacity(9, 10_000, evicts=False))
    await open_session(store)
    one, other = await take(store, room=3000), await take(store, room=4000)
    await store.release(one)
    await store.release(one)
    clock.advance(600)
    assert await sweep_all(store) == 0
    assert store._room.bytes.total == 701 + 4000
    await store.release(other)
    assert await sweep_all(store) == 1
    assert store._room.bytes.total == 0


async def test_bytes_never_pass_the_bound(told: list[Ending], clock: FakeClock) -> None:
    """Without eviction, no commit is refused and the sessions fit, whatever turns run at once and however much of their
    room they use."""
    store = await make_store(told, clock, Capacity(99, 20_000, evicts=False))
    for number in range(8):
        await open_session(store, str(number))
    chance, held, refused = random.Random(3), list[tuple[Held, int]](), list[str]()
    for number in range(2_000):
        if held and chance.random() < 0.5:
            one, room = held.pop(chance.randrange(len(held)))
            if chance.random() < 0.8:
                await store.commit(
                    one, step(one, {f"x{number}": bytes(chance.choice((room, room // 2)))}, tuple(one.parts))
                )
            await store.release(one)
        elif len(held) < 8:
            free = next(str(n) for n in range(8) if str(n) not in {one.row.id for one, _ in held})
            room = chance.randrange(1, 5_000)
            try:
                held.append((await take(store, free, room=room), room))
            except Overloaded as error:
                refused.append(error.limit)
        assert store._room.bytes.total <= 20_000
    assert len(refused) > 50
    assert set(refused) == {"max_session_bytes"}
