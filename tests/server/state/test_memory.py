"""A store in memory leaves nothing of ended sessions, does no long work at once, and calls complete in order."""

import asyncio
import gc
from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, WIDE, advance, make_birth, open_session, step, take
from tests.server.state.memory_stores import make_store, sweep_all

from carousel.errors import SessionExists
from carousel.state import memory
from carousel.state.memory import MemoryStore
from carousel.state.store import DEED_SECONDS, Capacity, Deed, Durability, Ending, EndReason, Lifetimes, Repeated, Row


async def test_no_life_is_longer_than_the_absolute_one(told: list[Ending], clock: FakeClock) -> None:
    """The absolute lifetime holds even where the idle time is longer."""
    store = await make_store(told, clock, lifetimes=Lifetimes(idle=100.0, absolute=50.0))
    assert (await open_session(store)).expires_at == NOW + 50
    assert (await advance(store)).expires_at == NOW + 50
    clock.advance(50)
    assert await sweep_all(store) == 1
    assert [ending.reason for ending in told] == [EndReason.AGE]


async def test_nothing_is_left_of_sessions_that_are_gone(told: list[Ending], clock: FakeClock) -> None:
    """After all have ended nothing is held, listed or reserved, and almost no hint remains."""
    store = await make_store(told, clock, Capacity(9_000, 2**40, evicts=False))
    for number in range(300):
        row = await open_session(store, str(number), f"owner {number % 7}")
        held = await take(store, str(number), row.owner, room=50)
        await store.commit(held, step(held, {"x": b"123"}))
        if number % 3:
            await store.end(row, EndReason.DELETED)
        await store.release(held)
    clock.advance(600)
    assert await sweep_all(store) == 100
    assert (store._shelves, store._held, store._takes, store._overdue) == ({}, {}, {}, set())
    assert (store._room.sessions.total, store._room.bytes.total, store._room.bytes.num_owners) == (0, 0, 0)
    assert len(store._expiries) <= 64
    assert repr(store) == "MemoryStore(0 of 9000 sessions, 0 bytes)"


@pytest.mark.parametrize("num_ids", [1, 50_000])
async def test_sessions_that_come_and_go_leave_nearly_nothing(
    told: list[Ending], clock: FakeClock, num_ids: int
) -> None:
    """50,000 sessions are created and deleted, under one id or many, beside some that stay: at most twice as many hints
    remain as sessions stay."""
    store = await make_store(told, clock)
    for number in range(200):
        await open_session(store, f"stays {number}")
    for number in range(50_000):
        await store.end(await open_session(store, str(number % num_ids), f"o{number % 10}"), EndReason.DELETED)
        assert len(store._expiries) <= 2 * 200 + 64
    assert len(store._endings) <= 10_000
    clock.advance(600)
    assert await sweep_all(store) == 200


async def test_live_sessions_are_nothing_for_the_collector_to_walk(told: list[Ending], clock: FakeClock) -> None:
    """The number of objects that the garbage collector follows does not depend on the number of sessions or turns."""
    store = await make_store(told, clock)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        clock.advance(0.001)
        await store.create([make_birth(f"{number}", parts={"x": b"123"})])
        await advance(store, f"{number}")
    gc.collect()
    gc.collect()
    assert len(gc.get_objects()) - before < 100


async def test_nothing_in_memory_is_durable(told: list[Ending], clock: FakeClock) -> None:
    """The store reports that a crash loses everything."""
    store = await make_store(told, clock)
    await open_session(store)
    assert store.durability is Durability.NONE
    assert store.durable_position(await advance(store)) == 0


async def test_a_sweep_is_short(told: list[Ending], clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are due, one call ends as many as requested; however many were used since, it checks a bounded
    number and reports that there is more."""
    store = await make_store(told, clock)
    for number in range(20_000):
        await open_session(store, str(number))
    clock.advance(300)
    for number in range(5_000):
        await advance(store, str(number))
    clock.advance(300)
    looked_at = 0
    find = store._find

    def count(owner: str, key: tuple[float, str]) -> object:
        nonlocal looked_at
        looked_at += 1
        return find(owner, key)

    monkeypatch.setattr(store, "_find", count)
    while True:
        looked_at, before = 0, len(told)
        ended = await store.sweep(50)
        assert looked_at <= 16 * 50
        assert len(told) - before <= 50
        if not ended:
            break
    assert (len(told), await store.num_live()) == (15_000, 5_000)


async def test_a_list_of_what_is_due_is_short(told: list[Ending], clock: FakeClock) -> None:
    """It ends a bounded number of due sessions, skips the rest, and finds the live ones after them."""
    store = await make_store(told, clock)
    for number in range(1_000):
        await open_session(store, str(number))
    clock.advance(600)
    row = await open_session(store, "live")
    assert await store.list_owned("ann", (0.0, ""), 10) == [row]
    assert len(told) == memory._MAX_MET


async def test_a_hold_whose_session_was_deleted_holds_no_namesake_for_ever(
    told: list[Ending], clock: FakeClock
) -> None:
    """During the hold, the new session under the id is not ended; afterwards its time counts, once."""
    store = await make_store(told, clock)
    late_row = await open_session(store)
    late = await take(store)
    clock.advance(600)
    assert await sweep_all(store) == 0
    assert await store.end(late_row, EndReason.DELETED)
    await open_session(store)
    clock.advance(600)
    assert await sweep_all(store) == 0
    await store.release(late)
    assert await sweep_all(store) == 1
    assert [ending.reason for ending in told] == [EndReason.DELETED, EndReason.IDLE]


async def test_a_turn_outlives_its_session(told: list[Ending], clock: FakeClock) -> None:
    """A session that was held when it came due, and then deleted, is released without a trace."""
    store = await make_store(told, clock)
    row = await open_session(store)
    held = await take(store)
    clock.advance(600)
    assert await sweep_all(store) == 0
    assert await store.end(row, EndReason.DELETED)
    await store.release(held)
    assert (store._overdue, store._held, len(told)) == (set(), {}, 1)


async def test_namesakes_wait_for_their_time_once(told: list[Ending], clock: FakeClock) -> None:
    """Sessions created again under live ids leave nothing of the earlier ones, even all at one moment."""
    store = await make_store(told, clock)
    rows = [await open_session(store, str(number)) for number in range(100)]
    for number in range(3_000):
        await store.end(rows[number % 100], EndReason.DELETED)
        rows[number % 100] = await open_session(store, str(number % 100))
    assert len(store._expiries) <= 2 * 100 + 64


async def test_two_sessions_of_one_request_have_two_ids(told: list[Ending], clock: FakeClock) -> None:
    """Equal ids in one request are refused: no session is made and no deed recorded."""
    store = await make_store(told, clock)
    with pytest.raises(SessionExists):
        await store.create([make_birth("a"), make_birth("b"), make_birth("a")], Deed("ann", "r", "f", ()))
    assert (await store.num_live(), await store.recall("ann", "r")) == (0, None)


async def test_the_clock_ends_only_what_is_due(told: list[Ending], clock: FakeClock) -> None:
    """This holds for any reason that the caller gives; an evicted session is not in use either."""
    store = await make_store(told, clock)
    row = await open_session(store)
    assert not await store.end(row, EndReason.IDLE)
    held = await take(store)
    clock.advance(600)
    assert not await store.end(row, EndReason.AGE)
    assert not await store.end(row, EndReason.EVICTED)
    await store.release(held)
    assert await store.end(row, EndReason.IDLE)
    assert [ending.reason for ending in told] == [EndReason.IDLE]


async def test_deeds_are_bounded_and_go_in_time(
    told: list[Ending], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest deeds of one owner and of all are kept; the sweep drops expired ones. A deed that ended nothing is not
    recorded."""
    monkeypatch.setattr(memory, "MAX_DEEDS_PER_OWNER", 3)
    monkeypatch.setattr(memory, "MAX_DEEDS", 5)
    store = await make_store(told, clock)
    for owner, count in (("ann", 4), ("bob", 3)):
        for number in range(count):
            deed = Deed(owner, f"r{number}", "f", ((f"s{number}", 1),))
            await store.create([make_birth(f"s{number}", owner)], deed)
    known = [(owner, n) for owner in ("ann", "bob") for n in range(4) if await store.recall(owner, f"r{n}") is not None]
    assert known == [("ann", 2), ("ann", 3), ("bob", 0), ("bob", 1), ("bob", 2)]
    gone = await open_session(store, "gone")
    await store.end(gone, EndReason.DELETED)
    assert not await store.end(gone, EndReason.DELETED, Deed("ann", "late", "f", ()))
    assert await store.recall("ann", "late") is None
    clock.advance(DEED_SECONDS)
    await sweep_all(store)
    assert len(store._deeds) == 0


async def test_all_at_once_is_one_after_the_other(told: list[Ending], clock: FakeClock) -> None:
    """No method waits: calls complete in order."""
    store = await make_store(told, clock)
    deed = Deed("ann", "r", "f", (("s", 1),))
    outcomes = await asyncio.gather(*(store.create([make_birth("s")], deed) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [list, *4 * [Repeated]]


async def test_sessions_sleep_in_a_file(tmp_path: Path, clock: FakeClock, told: list[Ending]) -> None:
    """What exists at close exists after the next start: binary parts, owners with equal ids, times and deeds; the file
    is removed."""
    file = tmp_path / "sessions"
    store = MemoryStore(WIDE, LONG, file, clock)
    await store.start(told.append)
    deed = Deed("ann", "r", "f", (("a", 1),))
    await store.create([make_birth("a", parts={"x": bytes(range(256)), "": b""})], deed)
    clock.advance(1)
    await store.create([make_birth("a", "bob", {})])
    clock.advance(0.5)
    held = await take(store, "a")
    await store.commit(held, step(held, {"y": b"\n{}\n"}))
    await store.release(held)
    before = [await take(store, "a"), await take(store, "a", "bob")]
    await store.close()
    woken = MemoryStore(WIDE, LONG, file, clock)
    await woken.start(told.append)
    assert not file.exists()
    after = [await take(woken, "a"), await take(woken, "a", "bob")]
    assert [(one.row, one.parts) for one in after] == [(one.row, one.parts) for one in before]
    with pytest.raises(Repeated):
        await woken.create([make_birth("b")], deed)
    for one in after:
        await woken.release(one)
    clock.advance(599.5)
    assert await sweep_all(woken) == 1
    assert (told[-1].owner, told[-1].id) == ("bob", "a")
    assert isinstance(await woken.read("ann", "a"), Row)
    assert clock.now >= NOW + DEED_SECONDS
    assert await woken.recall("ann", "r") is None


async def test_a_file_of_the_version_before_wakes(tmp_path: Path, clock: FakeClock, told: list[Ending]) -> None:
    """Sessions saved by a server of commit a313990 continue."""
    file = tmp_path / "sessions"
    file.write_bytes((Path(__file__).parent / "files" / "version_1.sessions").read_bytes())
    store = MemoryStore(WIDE, Lifetimes(3600.0, 86_400.0), file, clock)
    await store.start(told.append)
    assert (await advance(store, "a")).revision == 2
    assert isinstance(await store.read("", "b"), Row)
    assert not file.exists()
