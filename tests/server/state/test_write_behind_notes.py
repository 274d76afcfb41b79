"""Turns of held sessions that a write-behind store learns of late: they go with its next write, or never."""

from pathlib import Path

import pytest
from tests.server.state.conftest import advance, open_session, step, take
from tests.server.state.opening import GatedStore, start_behind

from carousel.errors import SessionMoved, StoreUnavailable
from carousel.state.store import Change, EndReason, Held, Row
from carousel.state.write_ahead import WriteAhead


@pytest.fixture
def inner(tmp_path: Path) -> GatedStore:
    return GatedStore(tmp_path / "sessions.db")


async def test_whoever_is_late_is_asked_before_each_write(inner: GatedStore) -> None:
    """The turns noted then for a held session go with that write, and other callers find them."""
    store = await start_behind(inner)
    await open_session(store)
    held = await take(store)
    rows = list[Row]()

    async def settle() -> None:
        rows.append(store.note(held, step(held, {"x": b"1"})))

    store.settle_with(settle)
    await store.flush()
    assert await inner.read("ann", "s") == rows[0] == await store.read("ann", "s")
    assert store.durable_position(rows[0]) == 1
    store.settle_with(_nothing)
    await store.release(held)
    assert "0 sessions held" in repr(inner)
    await store.close()


async def _nothing() -> None:
    return None


async def test_a_note_goes_on_from_the_last(inner: GatedStore) -> None:
    """Of one hold, with writes between, and is as long ago as it says."""
    store = await start_behind(inner)
    await open_session(store)
    held = await take(store)
    for number in range(4):
        inner.fake_clock.advance(5)
        change = Change(number + 1, {f"at/{number}": b"x"}, age_seconds=2.0)
        row = store.note(held, change)
        assert (row.revision, row.position, row.updated_at) == (number + 1, number + 1, inner.fake_clock.now - 2)
        held = Held(row, {**held.parts, **change.put}, held.epoch)
        if number % 2:
            await store.flush()
    assert await inner.read("ann", "s") == held.row
    await store.release(held)
    found = await take(store)
    assert found.parts == held.parts
    await store.close()


@pytest.mark.parametrize("how", ["ended", "undone", "changed", "changed and written", "released", "noted before"])
async def test_a_note_on_what_is_no_longer_held_is_refused(inner: GatedStore, how: str) -> None:
    """It would be lost in silence, or undo what came since."""
    store = await start_behind(inner)
    row = await open_session(store)
    held = await take(store)
    if how in ("ended", "undone"):
        assert await store.end(row, EndReason.DELETED if how == "ended" else EndReason.UNDONE)
        await open_session(store)
    elif how == "released":
        await store.release(held)
    elif how == "noted before":
        store.note(held, step(held, {"x": b"1"}))
    else:
        await advance(store)
        if how == "changed and written":
            await store.flush()
    before = await store.read("ann", "s")
    with pytest.raises(SessionMoved):
        store.note(held, step(held, {"x": b"2"}))
    assert await store.read("ann", "s") == before
    await store.close()


async def test_what_was_acknowledged_is_noted_although_a_write_failed(inner: GatedStore) -> None:
    """Nothing new may be acknowledged meanwhile; it is written when that is possible."""
    store = await start_behind(inner)
    await open_session(store)
    held = await take(store)
    await advance(store)
    inner.is_broken = True
    with pytest.raises(StoreUnavailable):
        await store.flush()
    with pytest.raises(StoreUnavailable):
        store.check_open()
    await store.release(held)
    held = await take(store)
    row = store.note(held, step(held, {"x": b"1"}))
    assert store.durable_position(row) == 0
    inner.is_broken = False
    await store.flush()
    store.check_open()
    assert await inner.read("ann", "s") == row
    await store.close()


async def test_a_turn_that_is_written_at_once_makes_what_others_hold_stale(inner: GatedStore) -> None:
    """In a store that has a log; and one that fails does not."""
    store = WriteAhead(inner, 1e6)
    await store.start(lambda _: None)
    await open_session(store)
    held, other = await take(store), await take(store)
    inner.is_broken = True
    with pytest.raises(StoreUnavailable):
        await store.commit(other, step(other, {"x": b"1"}))
    inner.is_broken = False
    row = store.note(held, step(held, {"x": b"2"}))
    held = Held(row, {**held.parts, "x": b"2"}, held.epoch)
    await store.release(other)
    other = await take(store)
    assert other.row == row
    row = await store.commit(other, step(other, {"x": b"3"}))
    assert await inner.read("ann", "s") == row
    with pytest.raises(SessionMoved):
        store.note(held, step(held, {"x": b"4"}))
    for one in (held, other):
        await store.release(one)
    await store.flush()
    assert ((await take(store)).parts["x"], await inner.read("ann", "s")) == (b"3", row)
    await store.close()
