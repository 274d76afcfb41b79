"""When sessions of the SQLite store end, what is remembered of that, and requests that are carried out once."""

import asyncio
import contextlib
import itertools
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, advance, make_birth, open_session, step, take
from tests.server.state.opening import opened

from carousel.errors import Overloaded, SessionExists, SessionMoved
from carousel.state import sqlite_changes
from carousel.state.store import DEED_SECONDS, Capacity, Deed, Ending, EndReason, Lifetimes, Repeated

ONE = Capacity(max_sessions=1, max_bytes=2**30, evicts=True)
FULL = Capacity(max_sessions=3, max_bytes=10_000, evicts=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


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
        ending = await store.acquire("ann", "s")
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
    """Thousands of due sessions end in small transactions, each reported separately, and turns run between them."""
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
    """Of each owner the newest are kept; beyond what all may have, the oldest of who has most go, nobody else's; those
    whose time has passed leave the file."""
    monkeypatch.setattr(sqlite_changes, "MAX_DEEDS_PER_OWNER", 3)
    monkeypatch.setattr(sqlite_changes, "MAX_DEEDS", 5)
    clock = FakeClock(NOW)
    async with opened(path, clock=clock) as store:
        for owner, count in (("ann", 2), ("bob", 5)):
            for number in range(count):
                await store.create([make_birth(f"s{number}", owner)], Deed(owner, f"q{number}", "f", ()))
        assert [await store.recall("bob", f"q{number}") is not None for number in range(5)] == [False] * 2 + [True] * 3
        await store.create([make_birth("s", "cid")], Deed("cid", "q", "f", ()))
        assert [await store.recall("bob", f"q{number}") is not None for number in range(5)] == [False] * 3 + [True] * 2
        assert [await store.recall("ann", f"q{number}") is not None for number in range(2)] == [True] * 2
        clock.advance(DEED_SECONDS)
        await store.create([make_birth("s", "dan")], Deed("dan", "q", "f", ()))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT owner FROM deeds").fetchall() == [("dan",)]


async def test_endings_are_bounded_for_each_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that ends many sessions loses its own records first; one that reuses the same id loses none."""
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
        assert isinstance(await store.read("bob", "s"), Ending)
        assert await store.read("ann", "3") is None  # of who has most


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
    """The turn that holds it is SessionMoved, and later takes get the ending."""
    async with opened(path) as store:
        row = await open_session(store)
        held = await take(store)
        assert await store.end(row, EndReason.DELETED)
        with pytest.raises(SessionMoved):
            await store.commit(held, step(held, {}))
        await store.release(held)
        ending = await store.acquire("ann", "s")
        assert isinstance(ending, Ending)
        assert (ending.reason, ending.incarnation) == (EndReason.DELETED, row.incarnation)


async def test_a_list_has_nothing_that_is_due(path: Path) -> None:
    """Pages are full of live sessions; due ones between them end, and are reported."""
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
    """An error of the ending's receiver stops no write, and is visible."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

    def fail(ending: Ending) -> None:
        raise RuntimeError(ending.id)

    async with opened(path, told=fail) as store:
        assert await store.end(await open_session(store), EndReason.DELETED)
        await open_session(store, "t")
        assert [str(context["exception"]) for context in seen] == ["s"]
