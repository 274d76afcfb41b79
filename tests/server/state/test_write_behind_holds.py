"""Sessions with unwritten turns, whose times are outdated in the inner store: when they end, what room they keep."""

from pathlib import Path

import pytest
from tests.server.state.conftest import LONG, NOW, advance, make_birth, open_session, step, take
from tests.server.state.opening import GatedStore, start_behind

from carousel.errors import Overloaded
from carousel.state.store import Capacity, Ending, EndReason


@pytest.fixture
def inner(tmp_path: Path) -> GatedStore:
    return GatedStore(tmp_path / "sessions.db")


async def test_what_is_unwritten_makes_room_all_the_same(tmp_path: Path) -> None:
    """A session with unwritten turns is not evicted as it stands; where there is no other it is written first, and then
    stays evicted."""
    inner, told = GatedStore(tmp_path / "sessions.db", Capacity(1, 2**30, evicts=True)), list[Ending]()
    store = await start_behind(inner, told)
    await store.create([make_birth("a", parts={})])
    row = await advance(store, "a")
    await store.create([make_birth("b", parts={})])
    (ending,) = told
    assert (ending.id, ending.incarnation, await store.read("ann", "a")) == ("a", row.incarnation, ending)
    assert [written for written, _ in inner.writes] == [row]
    await store.flush()
    assert len(inner.writes) == 1
    await store.close()


async def test_the_store_behind_ends_nothing_by_stale_moments(inner: GatedStore, told: list[Ending]) -> None:
    """A session whose turn is unwritten lives as long as the turn says, although the inner store does not know of it;
    after that, any call that finds it ends it, once."""
    store = await start_behind(inner, told)
    row = await open_session(store)
    inner.fake_clock.advance(LONG.idle - 1)
    row = await advance(store)
    assert (row.updated_at, row.expires_at) == (NOW + LONG.idle - 1, NOW + 2 * LONG.idle - 1)
    inner.fake_clock.advance(1)
    assert (await store.sweep(9), await inner.sweep(9)) == (0, 0)
    assert await store.read("ann", "s") == row
    assert await store.list_owned("ann", (0.0, ""), 9) == [row]
    held = await take(store)
    assert held.row == row
    await store.release(held)
    assert (told, inner.writes) == ([], [])
    inner.fake_clock.advance(LONG.idle - 2)
    assert await store.sweep(9) == 0
    inner.fake_clock.advance(1)
    assert await store.sweep(9) == 1
    assert [ending.reason for ending in told] == [EndReason.IDLE]
    await store.close()


@pytest.mark.parametrize("how", ["take", "read", "list", "make anew"])
async def test_whoever_meets_what_is_due_ends_it(inner: GatedStore, told: list[Ending], how: str) -> None:
    """This holds even when the turn that set the time is not yet written."""
    store = await start_behind(inner, told)
    await open_session(store)
    inner.fake_clock.advance(1)
    await advance(store)
    inner.fake_clock.advance(LONG.idle)
    if how == "list":
        assert await store.list_owned("ann", (0.0, ""), 9) == []
    elif how == "make anew":
        await open_session(store)
    else:
        found = await (store.acquire("ann", "s") if how == "take" else store.read("ann", "s"))
        assert isinstance(found, Ending)
        assert told == [found]
    assert len(told) == 1
    await store.close()


async def test_a_turn_that_outlasts_its_session_is_written(inner: GatedStore, told: list[Ending]) -> None:
    """A turn that runs when the session comes due holds it, also while it is written; afterwards the session ends."""
    store = await start_behind(inner, told)
    await open_session(store)
    held = await take(store)
    inner.fake_clock.advance(LONG.absolute)
    assert await store.sweep(9) == 0
    row = await store.commit(held, step(held, {"x": b"1"}))
    await store.flush()
    assert await store.sweep(9) == 0
    assert await store.read("ann", "s") == row == await inner.read("ann", "s")
    await store.release(held)
    assert await store.sweep(9) == 1
    assert [ending.reason for ending in told] == [EndReason.AGE]
    await store.close()


async def test_holds_end_with_the_write(inner: GatedStore) -> None:
    """When everything is written and released, the store behind holds nothing and has no room set aside."""
    store = await start_behind(inner)
    for name in "abc":
        await open_session(store, name)
        for _ in range(3):
            await advance(store, name)
    held = await take(store, "a")
    row = await store.commit(held, step(held, {"x": b"1"}))
    assert "3 sessions held" in repr(inner)
    await store.end(row, EndReason.DELETED)
    await store.flush()
    assert "1 sessions held" in repr(inner)
    await store.release(held)
    assert "0 sessions held, 0 ending" in repr(inner)
    await store.close()


async def test_room_stays_set_aside_until_the_write(tmp_path: Path) -> None:
    """What a turn may have added counts until it is written; a turn that finds no room has everything written first."""
    inner = GatedStore(tmp_path / "sessions.db", Capacity(9, 10_000, evicts=False))
    store = await start_behind(inner)
    await store.create([make_birth("a", parts={}), make_birth("b", parts={})])
    held = await take(store, "a", room=8000)
    await store.commit(held, step(held, {"x": bytes(1000)}))
    await store.release(held)
    with pytest.raises(Overloaded):
        await inner.acquire("ann", "b", 2000)
    assert inner.writes == []
    other = await take(store, "b", room=2000)
    assert len(inner.writes) == 1
    with pytest.raises(Overloaded):
        await store.acquire("ann", "a", 7000)
    with pytest.raises(Overloaded):
        await store.create([make_birth("c", parts={"x": bytes(7000)})])
    await store.release(other)
    await store.create([make_birth("c", parts={"x": bytes(7000)})])
    await store.close()
