"""Whose session ends, when, and for whom: decided in the writer's thread, beside turns that begin at that moment."""

import asyncio
import contextlib
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, advance, make_birth, open_session, step, take
from tests.server.state.opening import opened

from carousel.errors import Overloaded, SessionExists, SessionMoved
from carousel.shares import OwnerLimits
from carousel.state import sqlite_changes
from carousel.state.sqlite_holds import Key
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import DEED_SECONDS, Capacity, Deed, Ending, EndReason, Held, Lifetimes, Repeated, Row

ONE = Capacity(max_sessions=1, max_bytes=2**30, evicts=True)
FULL = Capacity(max_sessions=3, max_bytes=10_000, evicts=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


class Steps:
    """Counts the steps of the writer's or the reader's thread, and has it stand still before one of them."""

    def __init__(self, pause_before: int = -1) -> None:
        self.count = 0
        self._pause_before = pause_before
        self._is_reached = threading.Event()
        self._goes_on = threading.Event()

    def step(self, *_: object) -> None:
        if self.count == self._pause_before:
            self._is_reached.set()
            assert self._goes_on.wait(5)
        self.count += 1

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self._is_reached.wait, 5)

    def go_on(self) -> None:
        self._goes_on.set()

    def watch_writer(self, store: SqliteStore) -> None:
        """Each statement, each look at what is held, before and after it, and the end of each transaction."""
        assert store._open is not None
        holds, writer = store._open.holds, store._open.writer
        begin, settled = holds.begin_ending, writer._settled

        def begin_ending(key: Key, *, even_held: bool = False) -> bool:
            self.step()
            is_begun = begin(key, even_held=even_held)
            self.step()
            return is_begun

        def settle(is_committed: bool) -> None:
            self.step()
            settled(is_committed)
            self.step()

        holds.begin_ending = begin_ending  # type: ignore[method-assign]
        writer._settled = settle
        writer._connection.set_trace_callback(self.step)

    def watch_reader(self, store: SqliteStore) -> None:
        assert store._open is not None
        store._open.reader.set_trace_callback(self.step)


async def _expire(store: SqliteStore) -> None:
    await store.sweep(9)


async def _evict(store: SqliteStore) -> None:
    with contextlib.suppress(Overloaded):
        await store.create([make_birth("new", "ann", parts={})])


async def _make_anew(store: SqliteStore) -> None:
    with contextlib.suppress(SessionExists):
        await store.create([make_birth("s", "ann", parts={})])


ENDERS = {"expire": _expire, "evict": _evict, "make anew": _make_anew}


@contextlib.asynccontextmanager
async def _one_session(
    path: Path, how: str, *, is_cached: bool
) -> AsyncIterator[tuple[SqliteStore, FakeClock, list[Ending]]]:
    """A store with the session s alone."""
    path.unlink(missing_ok=True)
    clock, told = FakeClock(NOW), list[Ending]()
    cache_bytes = 2**20 if is_cached else 0
    async with opened(path, ONE, cache_bytes=cache_bytes, clock=clock, told=told.append) as store:
        await open_session(store)
        if how != "evict":
            clock.advance(LONG.idle)
        yield store, clock, told


async def _check_outcome(store: SqliteStore, found: Held | Ending | None, told: list[Ending]) -> None:
    """A session that was taken lives and can be changed; one that ended was said to have, once, and is gone."""
    endings = [ending for ending in told if ending.id == "s"]
    if isinstance(found, Held) and not (endings and endings[0].incarnation != found.row.incarnation):
        assert endings == []
        await store.commit(found, step(found, {"more": b"1"}))
        row = await store.read("ann", "s")
        assert isinstance(row, Row)
        assert row.revision == 1
    elif isinstance(found, Held):  # the one that was made under the id of the one that ended
        await store.commit(found, step(found, {"more": b"1"}))
    else:
        assert isinstance(found, Ending)
        assert endings == [found]


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("how", ENDERS)
async def test_a_take_at_any_step_of_an_ending_keeps_its_session_or_is_told(
    path: Path, how: str, is_cached: bool
) -> None:
    """Wherever the writer stands when a take begins, the take never gets a session that the clock, or another's wish
    for room, ends then."""
    dry = Steps()
    async with _one_session(path, how, is_cached=is_cached) as (store, _, told):
        dry.watch_writer(store)
        await ENDERS[how](store)
        assert [ending.id for ending in told] == ["s"]
        num_steps = dry.count
    assert num_steps >= 10
    for number in range(num_steps):
        steps = Steps(pause_before=number)
        async with _one_session(path, how, is_cached=is_cached) as (store, _, told):
            steps.watch_writer(store)
            ending = asyncio.create_task(ENDERS[how](store))
            await steps.until_reached()
            taking = asyncio.create_task(store.take("ann", "s"))
            await asyncio.wait([taking], timeout=0.01)
            steps.go_on()
            found = await taking
            await ending
            await _check_outcome(store, found, told)


@pytest.mark.parametrize("how", ENDERS)
async def test_an_ending_at_any_step_of_a_take_leaves_the_session_or_is_told(path: Path, how: str) -> None:
    """Wherever a take stands when the clock or a wish for room goes over the sessions, it gets none that then ends."""
    for number in range(4):
        steps = Steps(pause_before=number)
        async with _one_session(path, "evict", is_cached=False) as (store, clock, told):
            steps.watch_reader(store)
            taking = asyncio.create_task(store.take("ann", "s"))
            await steps.until_reached()
            if how != "evict":
                clock.advance(LONG.idle)
            await ENDERS[how](store)
            steps.go_on()
            await _check_outcome(store, await taking, told)


@pytest.mark.parametrize("number", range(8))
async def test_a_cancelled_take_holds_nothing(path: Path, number: int) -> None:
    """Cancelled at any step, while it reads or while it asks the writer, it keeps no session from its end, nor room."""
    clock = FakeClock(NOW)
    async with opened(path, FULL, cache_bytes=0, clock=clock) as store:
        await open_session(store)
        if number % 2:
            clock.advance(LONG.idle)
        taking = asyncio.create_task(store.take("ann", "s", 9000))
        for _ in range(number):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not (taking.cancelled() or isinstance(taking.result(), Ending)):
            held = taking.result()
            assert isinstance(held, Held)
            await store.release(held)
        clock.advance(LONG.idle)
        await store.sweep(9)
        assert isinstance(await store.read("ann", "s"), Ending)
        await store.create([make_birth("t", parts={"x": bytes(9000)})])


async def test_a_session_in_use_outlives_its_time(path: Path) -> None:
    """Neither a sweep nor a read nor another take ends it while a turn holds it; its change counts, and then it goes on
    or, past its absolute lifetime, ends."""
    clock, told = FakeClock(NOW), list[Ending]()
    lifetimes = Lifetimes(idle=10.0, absolute=100.0)
    async with opened(path, lifetimes=lifetimes, clock=clock, told=told.append) as store:
        row = await open_session(store)
        assert (row.created_at, row.updated_at, row.expires_at) == (NOW, NOW, NOW + 10)
        held = await take(store)
        clock.advance(11)
        assert await store.sweep(9) == 0
        assert await store.read("ann", "s") == row
        assert await store.list_owned("ann", (0.0, ""), 9) == [row]
        row = await store.commit(held, step(held, {}))
        assert (row.updated_at, row.expires_at) == (NOW + 11, NOW + 21)
        await store.release(held)
        for _ in range(9):
            clock.advance(9)
            row = await advance(store)
        held = await take(store)
        clock.advance(20)
        row = await store.commit(held, step(held, {"x": b"1"}))
        assert row.expires_at == NOW + 100 < clock()
        assert await store.read("ann", "s") == row
        await store.release(held)
        assert told == []
        ending = await store.take("ann", "s")
        assert isinstance(ending, Ending)
        assert (ending.reason, told) == (EndReason.AGE, [ending])


async def test_two_releases_give_back_one_hold(path: Path) -> None:
    """A release that comes twice does not let go what another turn holds."""
    clock = FakeClock(NOW)
    async with opened(path, clock=clock) as store:
        await open_session(store)
        first, second = await take(store), await take(store)
        await store.release(first)
        await store.release(first)
        clock.advance(LONG.idle)
        assert await store.sweep(9) == 0
        await store.release(second)
        assert await store.sweep(9) == 1


async def test_those_in_use_do_not_hide_what_is_due(path: Path) -> None:
    """However many of the longest due are held, a sweep of one finds the others, and those used since are passed."""
    clock, told = FakeClock(NOW), list[Ending]()
    async with opened(path, clock=clock, told=told.append) as store:
        for number in range(30):
            await open_session(store, str(number))
        helds = [await take(store, str(number)) for number in range(10)]
        clock.advance(LONG.idle - 1)
        for number in range(10, 20):
            await advance(store, str(number))
        clock.advance(1)
        for number in range(20, 30):
            assert await store.sweep(1) == 1
            assert told[-1].id == str(number)
        assert await store.sweep(1) == 0
        for held in helds:
            await store.release(held)
        assert await store.sweep(99) == 10
        assert await store.num_live() == 10


async def test_a_sweep_lets_the_others_in(path: Path) -> None:
    """Thousands that are due end in small transactions, each told by itself, and turns come between them."""
    clock, told = FakeClock(NOW), list[Ending]()
    async with opened(path, clock=clock, told=told.append) as store:
        for _ in range(20):
            await store.create([make_birth(f"s{number}", parts={}) for number in _next_hundred()])
        clock.advance(LONG.idle - 1)
        await open_session(store, "lively")
        clock.advance(1)
        sweeping = asyncio.create_task(store.sweep(10_000))
        num_told, num_turns = [0], 0
        while not sweeping.done():
            await advance(store, "lively")
            num_turns += 1
            num_told.append(len(told))
        assert await sweeping == 2000 == len({ending.id for ending in told})
        assert max(later - sooner for sooner, later in itertools.pairwise(num_told)) <= 4 * 128
        assert num_turns >= 4


_numbers = itertools.count()


def _next_hundred() -> list[int]:
    return [next(_numbers) for _ in range(100)]


async def test_a_part_of_a_sweep_is_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sessions are large a transaction ends fewer of them; all are ended all the same."""
    sizes: list[int] = []
    monkeypatch.setattr(sqlite_changes, "_SWEEP_SECONDS", 0.0)
    clock, told = FakeClock(NOW), list[Ending]()
    async with opened(path, clock=clock, told=told.append) as store:
        assert store._open is not None
        sweep = store._open.changes.sweep

        def count(connection: sqlite3.Connection, count: int) -> sqlite_changes.Swept:
            swept = sweep(connection, count)
            sizes.append(len(swept.endings))
            return swept

        monkeypatch.setattr(store._open.changes, "sweep", count)
        await store.create([make_birth(str(number)) for number in range(7)])
        clock.advance(LONG.idle)
        assert await store.sweep(99) == 7
        assert sizes == [1] * 7 + [0]


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
    """Where nothing is evicted a turn that could pass the bytes is refused at its start, and one that was let in is
    not refused afterwards, whoever comes between; what it did not use is free again."""
    async with opened(path, FULL) as store:
        await open_session(store, "a")
        await open_session(store, "b")
        first = await take(store, "a", room=6000)
        with pytest.raises(Overloaded) as refused:
            await store.take("ann", "b", 4000)
        assert refused.value.limit == "max_session_bytes"
        with pytest.raises(Overloaded):
            await store.create([make_birth("c", parts={"x": bytes(4000)})])
        await store.commit(first, step(first, {"x": bytes(6000)}))
        with pytest.raises(Overloaded):
            await store.take("ann", "b", 4000)
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
    """One owner's bounds refuse, or evict, his sessions alone; the refusal names the setting."""
    limits = OwnerLimits(max_sessions=2, max_bytes=5000)
    async with opened(path, Capacity(99, 2**30, evicts=False, owner_limits=limits)) as store:
        await open_session(store, "a")
        await open_session(store, "b")
        for call, limit in (
            (store.create([make_birth("c")]), "max_sessions_per_owner"),
            (store.take("ann", "a", 4500), "max_session_bytes_per_owner"),
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
    """When all that the largest holds is in use, the next above his share gives; when nobody may, it is refused, and
    the refusal has evicted nobody."""
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


async def test_several_are_made_together_or_not_at_all(path: Path) -> None:
    """If one of them cannot be, none is, nobody was evicted for them and the request is not recorded."""
    told: list[Ending] = []
    deed = Deed("ann", "q", "f", ())
    async with opened(path, Capacity(3, 2**30, evicts=True), told=told.append) as store:
        await open_session(store, "a")
        await open_session(store, "b")
        for births in (
            [make_birth("c"), make_birth("b")],
            [make_birth("c"), make_birth("d"), make_birth("c")],
            [make_birth(str(number)) for number in range(4)],
        ):
            with pytest.raises((SessionExists, Overloaded)):
                await store.create(births, deed)
            assert [row.id for row in await store.list_owned("ann", (0.0, ""), 9)] == ["a", "b"]
            assert await store.recall("ann", "q") is None
        assert told == []
        rows = await store.create([make_birth("c"), make_birth("d"), make_birth("e")], deed)
        assert [row.id for row in rows] == ["c", "d", "e"]
        assert [ending.id for ending in told] == ["a", "b"]


async def test_a_request_is_carried_out_once(path: Path) -> None:
    """A repeated creation or end is Repeated with what was recorded and changes nothing, for ten minutes; another
    owner's equal id is another request."""
    clock, deed = FakeClock(NOW), Deed("ann", "q", "f", (("s", 2**62),))
    async with opened(path, clock=clock) as store:
        (row,) = await store.create([make_birth()], deed)
        other = Deed("ann", "q", "g", ())
        for call in (store.create([make_birth("t")], other), store.end(row, EndReason.DELETED, deed)):
            with pytest.raises(Repeated) as repeated:
                await call
            assert repeated.value.deed == deed
        await store.create([make_birth("t", "bob")], Deed("bob", "q", "g", ()))
        assert await store.num_live() == 2
        clock.advance(DEED_SECONDS)
        assert await store.recall("ann", "q") is None
        ended = Deed("ann", "q", "h", (("s", row.incarnation),))
        assert await store.end(row, EndReason.DELETED, ended)
        assert await store.recall("ann", "q") == ended
        assert not await store.end(row, EndReason.DELETED, Deed("ann", "r", "h", ()))
        assert await store.recall("ann", "r") is None


async def test_deeds_are_bounded_and_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each owner, and of all, the newest are kept; those whose time has passed leave the file."""
    monkeypatch.setattr(sqlite_changes, "MAX_DEEDS_PER_OWNER", 3)
    monkeypatch.setattr(sqlite_changes, "MAX_DEEDS", 5)
    clock = FakeClock(NOW)
    async with opened(path, clock=clock) as store:
        for owner, count in (("ann", 2), ("bob", 5)):
            for number in range(count):
                await store.create([make_birth(f"s{number}", owner)], Deed(owner, f"q{number}", "f", ()))
        assert [await store.recall("bob", f"q{number}") is not None for number in range(5)] == [False] * 2 + [True] * 3
        await store.create([make_birth("s", "cid")], Deed("cid", "q", "f", ()))
        assert await store.recall("ann", "q0") is None
        assert await store.recall("ann", "q1") is not None
        clock.advance(DEED_SECONDS)
        await store.create([make_birth("s", "dan")], Deed("dan", "q", "f", ()))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT owner FROM deeds").fetchall() == [("dan",)]


async def test_endings_are_bounded_for_each_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends many sessions makes the server forget his own first; one who uses the same id again and again makes
    it forget nothing."""
    monkeypatch.setattr(sqlite_changes, "MAX_ENDINGS_PER_OWNER", 3)
    monkeypatch.setattr(sqlite_changes, "MAX_ENDINGS", 4)
    async with opened(path) as store:
        await store.end(await open_session(store, "s", "bob"), EndReason.DELETED)
        for number in range(6):
            await store.end(await open_session(store, str(number)), EndReason.DELETED)
        for _ in range(9):
            await store.end(await open_session(store, "5"), EndReason.DELETED)
        assert isinstance(await store.read("bob", "s"), Ending)
        known = [isinstance(await store.read("ann", str(number)), Ending) for number in range(6)]
        assert known == [False] * 3 + [True] * 3
        await store.end(await open_session(store, "t", "cid"), EndReason.DELETED)
        assert await store.read("bob", "s") is None


async def test_what_was_undone_leaves_nothing(path: Path) -> None:
    """A session of a request that was given up is gone without a trace, and nobody is told."""
    told: list[Ending] = []
    async with opened(path, told=told.append) as store:
        row = await open_session(store)
        assert await store.end(row, EndReason.UNDONE)
        assert (await store.read("ann", "s"), told, await store.num_live()) == (None, [], 0)
        await open_session(store)
        await store.release(await take(store))


async def test_a_delete_ends_a_session_in_use(path: Path) -> None:
    """The turn that holds it is SessionMoved, and takes meanwhile are told."""
    async with opened(path) as store:
        row = await open_session(store)
        held = await take(store)
        assert await store.end(row, EndReason.DELETED)
        with pytest.raises(SessionMoved):
            await store.commit(held, step(held, {}))
        await store.release(held)
        ending = await store.take("ann", "s")
        assert isinstance(ending, Ending)
        assert (ending.reason, ending.incarnation) == (EndReason.DELETED, row.incarnation)


async def test_a_list_has_nothing_that_is_due(path: Path) -> None:
    """Pages are full of what lives; what is due and lies between ends, and is told."""
    clock, told = FakeClock(NOW), list[Ending]()
    async with opened(path, clock=clock, told=told.append) as store:
        for number in range(300):
            await open_session(store, f"{number:03d}")
        clock.advance(LONG.idle - 1)
        for number in range(0, 300, 3):
            await advance(store, f"{number:03d}")
        clock.advance(1)
        rows = await store.list_owned("ann", (0.0, ""), 60)
        assert [row.id for row in rows] == [f"{number:03d}" for number in range(0, 180, 3)]
        assert len(told) >= 118
        await store.sweep(999)
        assert len({ending.id for ending in told}) == len(told) == 200


async def test_who_is_told_may_fail(path: Path) -> None:
    """An error of whoever is told of endings stops no write, and is seen."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def fail(ending: Ending) -> None:
        raise RuntimeError(ending.id)

    async with opened(path, told=fail) as store:
        assert await store.end(await open_session(store), EndReason.DELETED)
        await open_session(store, "t")
        assert [str(context["exception"]) for context in seen] == ["s"]
