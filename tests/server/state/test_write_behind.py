"""Turns that are acknowledged before they are written: when they are written, and what is promised meanwhile."""

import asyncio
from pathlib import Path

import pytest
from tests.server.state.conftest import advance, make_birth, open_session, step, take
from tests.server.state.opening import GatedStore, start_behind

from carousel.errors import SessionMoved, StoreUnavailable
from carousel.state.store import Change, Deed, Durability, Ending, EndReason, Row
from carousel.state.write_behind import WriteBehind


@pytest.fixture
def inner(tmp_path: Path) -> GatedStore:
    return GatedStore(tmp_path / "sessions.db")


@pytest.fixture
def told() -> list[Ending]:
    return []


async def _move(store: WriteBehind, position: int) -> Row:
    """A change that leaves the session there."""
    held = await take(store)
    row = await store.commit(held, Change(position, {"at": b"%d" % position}))
    await store.release(held)
    return row


async def test_turns_between_writes_are_one_write(inner: GatedStore) -> None:
    """What is acknowledged is read at once, is durable after a flush, and costs one write however many turns it was."""
    store = await start_behind(inner)
    await store.create([make_birth()])
    for _ in range(5):
        row = await advance(store)
    held = await take(store)
    await store.commit(held, step(held, {}, ("at/0", "at/3")))
    row = (await take(store)).row
    assert (await store.read("ann", "s"), await store.list_owned("ann", (0.0, ""), 9)) == (row, [row])
    assert (store.durability, store.durable_position(row), inner.writes) == (Durability.INTERVAL, 0, [])
    await store.flush()
    assert store.durable_position(row) == 6
    assert [(written, sorted(change.put), change.drop) for written, change in inner.writes] == [
        (row, ["at/1", "at/2", "at/4", "at/5"], ("at/0",))
    ]
    assert sorted((await take(inner)).parts) == ["at/1", "at/2", "at/4", "at/5"]
    await store.flush()
    assert len(inner.writes) == 1
    await store.close()


async def test_the_interval_writes_by_itself(inner: GatedStore) -> None:
    """Without any call the turns reach the store behind."""
    store = await start_behind(inner, interval_seconds=0.01)
    await store.create([make_birth(parts={})])
    row = await advance(store)
    await asyncio.wait_for(inner.reached.wait(), 10)
    await store.flush()
    assert await inner.read("ann", "s") == row
    await store.close()


async def test_closing_writes(inner: GatedStore, tmp_path: Path) -> None:
    """After a close nothing acknowledged is missing from the file."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    row = await advance(store)
    await store.close()
    again = GatedStore(tmp_path / "sessions.db")
    await again.start(lambda ending: None)
    assert await again.read("ann", "s") == row
    await again.close()


async def test_a_turn_during_a_write_is_in_the_next(inner: GatedStore) -> None:
    """A session that is used while it is written loses nothing and refuses nobody."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    await advance(store)
    inner.gate.clear()
    writing = asyncio.create_task(store.flush())
    await inner.reached.wait()
    row = await advance(store)
    inner.gate.set()
    await writing
    assert (await store.read("ann", "s"), store.durable_position(row)) == (row, 1)
    await store.flush()
    assert await inner.read("ann", "s") == row
    assert (await take(store)).parts == {"at/1": b"0", "at/2": b"1"}
    await store.close()


async def test_a_session_that_ends_during_a_write_is_gone(inner: GatedStore) -> None:
    """Whichever comes first, the end or the write, the session has ended and the next write is clean."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    row = await advance(store)
    inner.gate.clear()
    writing = asyncio.create_task(store.flush())
    await inner.reached.wait()
    assert await store.end(row, EndReason.DELETED)
    inner.gate.set()
    await writing
    await store.create([make_birth(parts={})])
    new = await advance(store)
    await store.flush()
    assert await inner.read("ann", "s") == new
    assert await store.num_live() == 1
    await store.close()


async def test_a_stale_hold_is_refused_after_the_write(inner: GatedStore) -> None:
    """What was held before a turn that is written by now is SessionMoved, not accepted and lost later."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
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
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    late = await take(store)
    looked, go_on = asyncio.Event(), asyncio.Event()
    read = inner.read

    async def read_slowly(owner: str, session_id: str) -> Row | Ending | None:
        row = await read(owner, session_id)
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
    assert await store.read("ann", "s") == row
    await store.close()


async def test_a_list_that_was_read_before_a_write_is_as_new(
    inner: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although nothing is unwritten any more when it comes."""
    store = await start_behind(inner)
    await store.create([make_birth()])
    row = await advance(store)
    real = inner.list_owned

    async def list_slowly(owner: str, after: tuple[float, str], count: int) -> list[Row]:
        rows = await real(owner, after, count)
        await store.flush()
        return rows

    monkeypatch.setattr(inner, "list_owned", list_slowly)
    assert await store.list_owned("ann", (0.0, ""), 9) == [row]
    await store.close()


async def test_a_write_that_fails_stops_acknowledging(inner: GatedStore) -> None:
    """Turns are refused until the store behind writes again, so that a crash never takes more than was stated."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
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
    store = await start_behind(inner, max_unwritten=3)
    for number in range(10):
        await store.create([make_birth(str(number), parts={})])
        await advance(store, str(number))
        assert len(store._unwritten) <= 3
    assert len(inner.writes) >= 7
    await store.close()


async def test_durable_is_what_is_durable_of_the_line(inner: GatedStore) -> None:
    """After a rewind nothing of the old line beyond it counts, and nothing of the new one until it is written."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    row = await _move(store, 10)
    await store.flush()
    assert store.durable_position(row) == 10
    row = await _move(store, 4)
    assert store.durable_position(row) == 4
    row = await _move(store, 12)
    assert store.durable_position(row) == 4
    await store.flush()
    assert store.durable_position(row) == 12
    await store.close()


async def test_durable_during_a_write_is_of_the_line_too(inner: GatedStore) -> None:
    """What was committed while a write ran counts from what that wrote, and a base far behind is still the least."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    await _move(store, 2)
    await _move(store, 10)
    inner.gate.clear()
    writing = asyncio.create_task(store.flush())
    await inner.reached.wait()
    await _move(store, 8)
    row = await _move(store, 9)
    assert store.durable_position(row) == 0
    inner.gate.set()
    await writing
    assert store.durable_position(row) == 8
    await store.flush()
    assert store.durable_position(row) == 9
    await store.close()


async def test_a_flush_that_nobody_waits_for_loses_nothing(inner: GatedStore) -> None:
    """The waiting caller is cancelled during a write: what was committed meanwhile is still written."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    await advance(store)
    inner.gate.clear()
    writing = asyncio.create_task(store.flush())
    await inner.reached.wait()
    row = await advance(store)
    inner.gate.set()
    await asyncio.sleep(0)  # the write is on its way to the disk
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert writing.cancelled()
    await store.flush()
    assert await inner.read("ann", "s") == row
    await store.close()


async def test_a_close_in_the_middle_of_a_write_loses_nothing(inner: GatedStore, tmp_path: Path) -> None:
    """A turn that is committed while the interval's write runs is in the file after the close."""
    store = await start_behind(inner, interval_seconds=0.001)
    await store.create([make_birth(parts={})])
    inner.gate.clear()
    await advance(store)
    await asyncio.wait_for(inner.reached.wait(), 10)
    row = await advance(store)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    inner.gate.set()
    await closing
    again = GatedStore(tmp_path / "sessions.db")
    await again.start(lambda ending: None)
    assert await again.read("ann", "s") == row
    await again.close()


async def test_a_close_leaves_no_flush_behind(inner: GatedStore) -> None:
    """A caller that asks for a write while the store closes has an answer by then."""
    store = await start_behind(inner)
    await open_session(store)
    await advance(store)
    inner.gate.clear()
    first = asyncio.create_task(store.flush())
    await inner.reached.wait()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    last = asyncio.create_task(store.flush())
    await asyncio.sleep(0)
    first.cancel()
    inner.gate.set()
    await closing
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "write-behind-flush"]
    await asyncio.gather(first, last, return_exceptions=True)


async def test_deeds_are_written_at_once(inner: GatedStore) -> None:
    """What made or ended sessions is in the store behind when it is acknowledged."""
    store = await start_behind(inner)
    made, ended = Deed("ann", "q", "f", (("s", 1),)), Deed("ann", "r", "f", (("s", 1),))
    (row,) = await store.create([make_birth()], made)
    assert await inner.recall("ann", "q") == made == await store.recall("ann", "q")
    assert await store.end(row, EndReason.DELETED, ended)
    assert await inner.recall("ann", "r") == ended
    await store.close()


async def test_a_close_that_cannot_write_says_so(inner: GatedStore) -> None:
    """The last turns are not lost in silence."""
    store = await start_behind(inner)
    await store.create([make_birth(parts={})])
    await advance(store)
    inner.is_broken = True
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await store.close()
    assert "closed" in repr(inner)
