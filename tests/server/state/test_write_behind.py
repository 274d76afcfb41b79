"""Turns that are acknowledged before they are written: when they are written, and what is promised meanwhile."""

import asyncio
from pathlib import Path

import pytest
from tests.server.state.conftest import NOW, WIDE, advance, make_row, step, take

from carousel.errors import SessionMoved, StoreUnavailable
from carousel.state.memory import Capacity
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Change, Durability, Ending, EndReason, Held, Row
from carousel.state.write_behind import WriteBehind

NEVER = 1e6


class GatedStore(SqliteStore):
    """A real store whose commits wait for a gate, or fail."""

    def __init__(self, path: Path, capacity: Capacity = WIDE) -> None:
        super().__init__(path, capacity)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.is_broken = False
        self.commits: list[Change] = []

    async def commit(self, held: Held, change: Change) -> None:
        self.commits.append(change)
        self.reached.set()
        await self.gate.wait()
        if self.is_broken:
            raise StoreUnavailable("the disk is full")
        await super().commit(held, change)


@pytest.fixture
def inner(tmp_path: Path) -> GatedStore:
    return GatedStore(tmp_path / "sessions.db")


async def _start(inner: GatedStore, **options: float) -> WriteBehind:
    store = WriteBehind(inner, options.get("interval_seconds", NEVER), int(options.get("max_unwritten", 4096)))
    await store.start()
    return store


async def test_turns_between_writes_are_one_write(inner: GatedStore) -> None:
    """What is acknowledged is read at once, is durable after a flush, and costs one write however many turns it was."""
    store = await _start(inner)
    await store.create(make_row(), {"at/0": b"0"})
    for _ in range(5):
        row = await advance(store)
    held = await take(store)
    await store.commit(held, step(held, {}, ("at/0", "at/3")))
    row = (await take(store)).row
    assert (await store.read("s"), await store.list_owned("ann", (0.0, ""), 9)) == (row, [row])
    assert (store.durability, store.durable_position(row), inner.commits) == (Durability.INTERVAL, 0, [])
    await store.flush()
    assert store.durable_position(row) == 6
    assert [(change.row, sorted(change.put), change.drop) for change in inner.commits] == [
        (row, ["at/1", "at/2", "at/4", "at/5"], ("at/0",))
    ]
    assert sorted((await take(inner)).parts) == ["at/1", "at/2", "at/4", "at/5"]
    await store.flush()
    assert len(inner.commits) == 1
    await store.close()


async def test_the_interval_writes_by_itself(inner: GatedStore) -> None:
    """Without any call the turns reach the store behind."""
    store = await _start(inner, interval_seconds=0.01)
    await store.create(make_row(), {})
    row = await advance(store)
    await asyncio.wait_for(inner.reached.wait(), 10)
    await store.flush()
    assert await inner.read("s") == row
    await store.close()


async def test_closing_writes(inner: GatedStore, tmp_path: Path) -> None:
    """After a close nothing acknowledged is missing from the file."""
    store = await _start(inner)
    await store.create(make_row(), {})
    row = await advance(store)
    await store.close()
    again = SqliteStore(tmp_path / "sessions.db", WIDE)
    await again.start()
    assert await again.read("s") == row
    await again.close()


async def test_a_turn_during_a_write_is_in_the_next(inner: GatedStore) -> None:
    """A session that is used while it is written loses nothing and refuses nobody."""
    store = await _start(inner)
    await store.create(make_row(), {})
    await advance(store)
    inner.gate.clear()
    writing = asyncio.create_task(store.flush())
    await inner.reached.wait()
    row = await advance(store)
    inner.gate.set()
    await writing
    assert (await store.read("s"), store.durable_position(row)) == (row, 1)
    await store.flush()
    assert await inner.read("s") == row
    assert (await take(store)).parts == {"at/1": b"0", "at/2": b"1"}
    await store.close()


async def test_a_session_that_ends_during_a_write_is_gone(inner: GatedStore) -> None:
    """Whichever comes first, the end or the write, the session has ended and the next write is clean."""
    store = await _start(inner)
    await store.create(make_row(), {})
    row = await advance(store)
    inner.gate.clear()
    writing = asyncio.create_task(store.flush())
    await inner.reached.wait()
    assert await store.end(row, EndReason.DELETED, NOW)
    inner.gate.set()
    await writing
    await store.create(make_row(), {})
    new = await advance(store)
    await store.flush()
    assert await inner.read("s") == new
    assert await store.num_live() == 1
    await store.close()


async def test_a_stale_hold_is_refused_after_the_write(inner: GatedStore) -> None:
    """What was held before a turn that is written by now is SessionMoved, not accepted and lost later."""
    store = await _start(inner)
    await store.create(make_row(), {})
    late = await take(store)
    await advance(store)
    await store.flush()
    with pytest.raises(SessionMoved):
        await store.commit(late, step(late, {}))
    await store.close()


async def test_a_slow_look_at_the_store_behind_is_not_trusted(
    inner: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that was committed and written while another one looked makes that other one SessionMoved."""
    store = await _start(inner)
    await store.create(make_row(), {})
    late = await take(store)
    looked, go_on = asyncio.Event(), asyncio.Event()
    read = inner.read

    async def read_slowly(session_id: str) -> Row | Ending | None:
        row = await read(session_id)
        looked.set()
        await go_on.wait()
        return row

    monkeypatch.setattr(inner, "read", read_slowly)
    committing = asyncio.create_task(store.commit(late, step(late, {})))
    await looked.wait()
    monkeypatch.setattr(inner, "read", read)
    row = await advance(store)
    await store.flush()
    go_on.set()
    with pytest.raises(SessionMoved):
        await committing
    assert await store.read("s") == row
    await store.close()


async def test_a_write_that_fails_stops_acknowledging(inner: GatedStore) -> None:
    """Turns are refused until the store behind writes again, so that a crash never takes more than was stated."""
    store = await _start(inner)
    await store.create(make_row(), {})
    row = await advance(store)
    inner.is_broken = True
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await store.flush()
    held = await take(store)
    assert held.row == row
    with pytest.raises(StoreUnavailable):
        await store.commit(held, step(held, {}))
    assert store.durable_position(row) == 0
    inner.is_broken = False
    await store.flush()
    await store.commit(held, step(held, {}))
    await store.close()


async def test_what_is_unwritten_is_bounded(inner: GatedStore) -> None:
    """At the bound a turn waits for a write instead of adding to what a crash takes."""
    store = await _start(inner, max_unwritten=3)
    for number in range(10):
        await store.create(make_row(str(number)), {})
        await advance(store, str(number))
        assert len(store._unwritten) <= 3
    assert len(inner.commits) >= 7
    await store.close()


async def test_an_evicted_session_is_not_written(tmp_path: Path) -> None:
    """A session that was evicted while a turn of it was unwritten stays evicted."""
    inner = GatedStore(tmp_path / "sessions.db", Capacity(max_sessions=1, max_bytes=2**30, evicts=True))
    store = await _start(inner)
    await store.create(make_row("a"), {})
    row = await advance(store, "a")
    (ending,) = await store.create(make_row("b"), {})
    assert (ending.id, await store.read("a")) == (row.id, ending)
    await store.flush()
    assert inner.commits == []
    await store.close()


async def test_a_close_that_cannot_write_says_so(inner: GatedStore) -> None:
    """The last turns are not lost in silence."""
    store = await _start(inner)
    await store.create(make_row(), {})
    await advance(store)
    inner.is_broken = True
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await store.close()
    assert "closed" in repr(inner)
