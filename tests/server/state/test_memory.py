"""What is particular to sessions in memory: what they weigh, that nothing is left of them, and that no call is long."""

import asyncio
import gc
import random
from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, WIDE, advance, make_birth, open_session, step, take

from carousel.errors import Overloaded, SessionExists
from carousel.shares import OwnerLimits
from carousel.state import memory
from carousel.state.memory import MemoryStore
from carousel.state.store import (
    DEED_SECONDS,
    Capacity,
    Deed,
    Durability,
    Ending,
    EndReason,
    Held,
    Lifetimes,
    Repeated,
    Row,
)

TIGHT = Capacity(max_sessions=5, max_bytes=10_000, evicts=True)


async def _make(
    told: list[Ending], clock: FakeClock, capacity: Capacity = WIDE, lifetimes: Lifetimes = LONG
) -> MemoryStore:
    store = MemoryStore(capacity, lifetimes, clock=clock)
    await store.start(told.append)
    return store


async def _sweep(store: MemoryStore) -> int:
    num_ended = 0
    while ended := await store.sweep(100):
        num_ended += ended
    return num_ended


async def test_looking_is_not_using(told: list[Ending], clock: FakeClock) -> None:
    """Reading and listing do not save a session from eviction; taking it does."""
    store = await _make(told, clock, TIGHT)
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
    store = await _make(told, clock, Capacity(2, 2**30, evicts=True))
    await open_session(store, "a")
    await open_session(store, "b")
    held = [await take(store, name) for name in "ab"]
    await store.commit(held[0], step(held[0], {}))
    for one in held:
        await store.release(one)
    await open_session(store, "c")
    assert [ending.id for ending in told] == ["b"]


async def test_no_life_is_longer_than_the_absolute_one(told: list[Ending], clock: FakeClock) -> None:
    """Also where the idle time is longer."""
    store = await _make(told, clock, lifetimes=Lifetimes(idle=100.0, absolute=50.0))
    assert (await open_session(store)).expires_at == NOW + 50
    assert (await advance(store)).expires_at == NOW + 50
    clock.advance(50)
    assert await _sweep(store) == 1
    assert [ending.reason for ending in told] == [EndReason.AGE]


async def test_what_a_session_gains_counts(told: list[Ending], clock: FakeClock) -> None:
    """Bytes that turns add and drop count, so that growth makes the next creation evict."""
    store = await _make(told, clock, TIGHT)
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


async def test_nothing_is_left_of_sessions_that_are_gone(told: list[Ending], clock: FakeClock) -> None:
    """After all have ended nothing is held, listed or reserved, and almost no hint remains."""
    store = await _make(told, clock, Capacity(9_000, 2**40, evicts=False))
    for number in range(300):
        row = await open_session(store, str(number), f"owner {number % 7}")
        held = await take(store, str(number), row.owner, room=50)
        await store.commit(held, step(held, {"x": b"123"}))
        if number % 3:
            await store.end(row, EndReason.DELETED)
        await store.release(held)
    clock.advance(600)
    assert await _sweep(store) == 100
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
    store = await _make(told, clock)
    for number in range(200):
        await open_session(store, f"stays {number}")
    for number in range(50_000):
        await store.end(await open_session(store, str(number % num_ids), f"o{number % 10}"), EndReason.DELETED)
        assert len(store._expiries) <= 2 * 200 + 64
    assert len(store._endings) <= 10_000
    clock.advance(600)
    assert await _sweep(store) == 200


async def test_live_sessions_are_nothing_for_the_collector_to_walk(told: list[Ending], clock: FakeClock) -> None:
    """The number of objects that the garbage collector follows does not depend on the number of sessions or turns."""
    store = await _make(told, clock)
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
    store = await _make(told, clock)
    await open_session(store)
    assert store.durability is Durability.NONE
    assert store.durable_position(await advance(store)) == 0


async def test_growth_beyond_a_bound_is_swept(told: list[Ending], clock: FakeClock) -> None:
    """When turns have grown sessions beyond the bytes of all or of their owner, the owner with the most loses its least
    recently used sessions until all fits; sessions in use and other owners' sessions stay."""
    store = await _make(told, clock, Capacity(99, 20_000, True, OwnerLimits(max_bytes=12_000)))
    for owner, count in (("ann", 4), ("bob", 3)):
        for number in range(count):
            await store.create([make_birth(f"{owner} {number}", owner, {"x": bytes(1000)})])
    assert await _sweep(store) == 0
    held = [await take(store, "ann 0"), await take(store, "ann 1", room=2**40)]  # no need for room where others go
    await store.commit(held[1], step(held[1], {"y": bytes(7000)}))
    assert (await store.sweep(1), len(told)) == (1, 1)
    assert await _sweep(store) == 1
    assert [ending.id for ending in told] == ["ann 2", "ann 3"]
    grown = await take(store, "bob 1", "bob")
    await store.commit(grown, step(grown, {"y": bytes(8500)}))
    for one in (*held, grown):
        await store.release(one)
    assert store._room.bytes.total == 2 * 1700 + 7000 + 3 * 1700 + 8500
    assert await _sweep(store) == 3  # for bob's own bound, then of bob, who has most, then of ann, who has most then
    assert [ending.id for ending in told[2:]] == ["bob 0", "bob 2", "ann 0"]
    assert await _sweep(store) == 0


async def test_who_is_refused_has_cost_nobody_a_session(told: list[Ending], clock: FakeClock) -> None:
    """Nothing is evicted when the new sessions can never fit: too many at once, or too large."""
    store = await _make(told, clock, TIGHT)
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
    store = await _make(told, clock, Capacity(12, 2**30, evicts=True))
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
    store = await _make(told, clock, Capacity(9, 10_000, evicts=False))
    await open_session(store)
    one, other = await take(store, room=3000), await take(store, room=4000)
    await store.release(one)
    await store.release(one)
    clock.advance(600)
    assert await _sweep(store) == 0
    assert store._room.bytes.total == 701 + 4000
    await store.release(other)
    assert await _sweep(store) == 1
    assert store._room.bytes.total == 0


async def test_bytes_never_pass_the_bound(told: list[Ending], clock: FakeClock) -> None:
    """Without eviction: whatever turns run at once and however much of their room they use, no commit is refused, and
    the sessions fit."""
    store = await _make(told, clock, Capacity(99, 20_000, evicts=False))
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


async def test_a_sweep_is_short(told: list[Ending], clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are due, one call ends as many as requested; however many were used since, it checks a bounded
    number and reports that there is more."""
    store = await _make(told, clock)
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
    store = await _make(told, clock)
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
    store = await _make(told, clock)
    late_row = await open_session(store)
    late = await take(store)
    clock.advance(600)
    assert await _sweep(store) == 0
    assert await store.end(late_row, EndReason.DELETED)
    await open_session(store)
    clock.advance(600)
    assert await _sweep(store) == 0
    await store.release(late)
    assert await _sweep(store) == 1
    assert [ending.reason for ending in told] == [EndReason.DELETED, EndReason.IDLE]


async def test_a_turn_outlives_its_session(told: list[Ending], clock: FakeClock) -> None:
    """A session that was held when it came due, and then deleted, is released without a trace."""
    store = await _make(told, clock)
    row = await open_session(store)
    held = await take(store)
    clock.advance(600)
    assert await _sweep(store) == 0
    assert await store.end(row, EndReason.DELETED)
    await store.release(held)
    assert (store._overdue, store._held, len(told)) == (set(), {}, 1)


async def test_namesakes_wait_for_their_time_once(told: list[Ending], clock: FakeClock) -> None:
    """Sessions created again under live ids leave nothing of the earlier ones, even all at one moment."""
    store = await _make(told, clock)
    rows = [await open_session(store, str(number)) for number in range(100)]
    for number in range(3_000):
        await store.end(rows[number % 100], EndReason.DELETED)
        rows[number % 100] = await open_session(store, str(number % 100))
    assert len(store._expiries) <= 2 * 100 + 64


async def test_two_sessions_of_one_request_have_two_ids(told: list[Ending], clock: FakeClock) -> None:
    """Otherwise none is made, and no deed recorded."""
    store = await _make(told, clock)
    with pytest.raises(SessionExists):
        await store.create([make_birth("a"), make_birth("b"), make_birth("a")], Deed("ann", "r", "f", ()))
    assert (await store.num_live(), await store.recall("ann", "r")) == (0, None)


async def test_the_clock_ends_only_what_is_due(told: list[Ending], clock: FakeClock) -> None:
    """This holds for any reason that the caller gives; an evicted session is not in use either."""
    store = await _make(told, clock)
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
    store = await _make(told, clock)
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
    await _sweep(store)
    assert len(store._deeds) == 0


async def test_all_at_once_is_one_after_the_other(told: list[Ending], clock: FakeClock) -> None:
    """No method waits: calls complete in order."""
    store = await _make(told, clock)
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
    assert await _sweep(woken) == 1
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
