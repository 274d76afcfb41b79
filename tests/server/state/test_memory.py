"""What is particular to sessions in memory: what they weigh, and that nothing is left of them."""

import gc
from pathlib import Path

from tests.server.state.conftest import NOW, advance, make_row, step, take

from carousel.state.memory import Capacity, MemoryStore
from carousel.state.store import Durability, EndReason


def _make() -> MemoryStore:
    return MemoryStore(Capacity(max_sessions=5, max_bytes=10_000, evicts=True))


async def test_looking_is_not_using() -> None:
    """Reading and listing do not save a session from eviction; taking it does."""
    store = _make()
    for name in "abcde":
        await store.create(make_row(name), {})
    await store.read("a")
    await store.list_owned("ann", (0.0, ""), 1)
    await store.release(await take(store, "b"))
    evicted = await store.create(make_row("f"), {}) + await store.create(make_row("g"), {})
    assert [ending.id for ending in evicted] == ["a", "c"]


async def test_what_a_session_gains_counts() -> None:
    """Bytes that turns add and drop are weighed, so that growth makes the next creation evict."""
    store = _make()
    await store.create(make_row("a"), {"x": bytes(4000)})
    await store.create(make_row("b"), {})
    held = await take(store, "b")
    await store.commit(held, step(held, {"x": bytes(4000)}))
    assert [ending.id for ending in await store.create(make_row("c"), {"x": bytes(3000)})] == ["a"]
    held = await take(store, "b")
    await store.commit(held, step(held, {}, ("x",)))
    assert await store.create(make_row("d"), {"x": bytes(3000)}) == []


async def test_nothing_is_left_of_sessions_that_are_gone() -> None:
    """After all have ended every index is empty and nothing weighs anything."""
    store = _make()
    for round_number in range(3):
        for number in range(5):
            await store.create(make_row(f"{round_number}-{number}", f"owner {number}"), {"x": b"123"})
            await advance(store, f"{round_number}-{number}")
        while rows := await store.due(NOW + 1000):
            for row in rows:
                await store.end(row, EndReason.IDLE, NOW + 1000)
    assert (len(store._sessions), store._owned, store._expiries, store._num_bytes) == (0, {}, [], 0)
    assert repr(store) == "MemoryStore(0 of 5 sessions, 0 bytes)"


async def test_live_sessions_are_nothing_for_the_collector_to_walk() -> None:
    """However many there are and whatever turns they took, the number of objects that it follows stays."""
    store = MemoryStore(Capacity(max_sessions=1000, max_bytes=10_000_000, evicts=False))
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        await store.create(make_row(f"{number}"), {"x": b"123"})
        await advance(store, f"{number}")
    gc.collect()
    assert len(gc.get_objects()) - before < 100


async def test_nothing_in_memory_is_durable() -> None:
    """It says that a crash takes everything."""
    store = _make()
    await store.create(make_row(), {})
    assert store.durability is Durability.NONE
    assert store.durable_position(await advance(store)) == 0


async def test_growth_beyond_the_bytes_is_told() -> None:
    """When turns have grown sessions beyond the bound, the least recently used ones are named, enough to fit again."""
    store = _make()
    for name in "abc":
        await store.create(make_row(name), {"x": bytes(1000)})
    assert await store.excess() == []
    held = await take(store, "c")
    await store.commit(held, step(held, {"y": bytes(7000)}))
    assert [row.id for row in await store.excess()] == ["a", "b"]


async def test_sessions_sleep_in_a_file(tmp_path: Path) -> None:
    """What was there at close is there after the next start, binary parts and all; the file is used up by it."""
    file = tmp_path / "sessions"
    capacity = Capacity(max_sessions=5, max_bytes=10_000, evicts=True)
    store = MemoryStore(capacity, file)
    await store.start()
    await store.create(make_row("a"), {"x": bytes(range(256)), "": b""})
    held = await take(store, "a")
    await store.commit(held, step(held, {"y": b"\n{}\n"}))
    await store.create(make_row("b", ttl_seconds=1.0), {})
    await store.close()
    woken = MemoryStore(capacity, file)
    await woken.start()
    assert not file.exists()
    before, after = await take(store, "a"), await take(woken, "a")
    assert (after.row, dict(after.parts)) == (before.row, dict(before.parts))
    assert [row.id for row in await woken.list_owned("ann", (0.0, ""), 9)] == ["a", "b"]
    assert [row.id for row in await woken.due(NOW + 2.0)] == ["b"]
