"""What is particular to sessions in a file: it survives, it is quick, and its disk can be full."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, WIDE, advance, make_birth, step, take
from tests.server.state.opening import opened

from carousel.errors import Overloaded, StoreUnavailable
from carousel.state import group_commit
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Deed, Durability, Ending, EndReason, Row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


async def test_everything_survives_a_restart(path: Path) -> None:
    """Rows, parts, endings, deeds, order and counts are after a restart what they were."""
    clock = FakeClock(NOW)
    deed = Deed("ann", "q", "f", (("b", 1), ("c", 2)))
    async with opened(path, clock=clock) as store:
        await store.create([make_birth(name) for name in "abc"], deed)
        row = await advance(store, "b")
        gone = await store.read("ann", "c")
        assert isinstance(gone, Row)
        clock.advance(1)
        await store.end(gone, EndReason.AGE)
        rows = await store.list_owned("ann", (0.0, ""), 9)
    async with opened(path, clock=clock) as store:
        assert store.durability is Durability.EACH_TURN
        assert await store.list_owned("ann", (0.0, ""), 9) == rows
        held = await take(store, "b")
        assert (held.row, held.parts) == (row, {"at/0": b"0", "at/1": b"0"})
        assert await store.read("ann", "c") == Ending("c", "ann", EndReason.AGE, NOW + 1, gone.incarnation)
        assert await store.recall("ann", "q") == deed
        assert await store.num_live() == 2


_CLIENT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.server.state.conftest import LONG, WIDE, advance, make_birth
from carousel.state.sqlite_file import open_file
from carousel.state.sqlite_store import SqliteStore

async def live(store, name):
    await store.create([make_birth(name, parts={{}})])
    while True:
        row = await advance(store, name)
        print(name, row.revision, flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]), WIDE, LONG)
    await store.start(lambda ending: None)
    await asyncio.gather(*(live(store, f"s{{number}}") for number in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    """After SIGKILL in the middle of commits every turn that was acknowledged is there, whole, with its part."""
    root = str(Path(__file__).parents[3])
    for num_turns in (50, 300):
        acknowledged: dict[str, int] = {}
        with _client(root, path) as lines:
            for count, line in enumerate(lines):
                name, number = line.split()
                acknowledged[name] = int(number)
                if count >= num_turns:
                    break
        async with opened(path) as store:
            for name, revision in acknowledged.items():
                held = await take(store, name)
                assert held.row.revision >= revision
                assert held.parts == {f"at/{n + 1}": b"%d" % n for n in range(held.row.revision)}
                await store.end(held.row, EndReason.DELETED)
            for row in await store.list_owned("ann", (0.0, ""), 99):
                await store.end(row, EndReason.DELETED)


@contextlib.contextmanager
def _client(root: str, path: Path) -> Iterator[Iterator[str]]:
    command = [sys.executable, "-c", _CLIENT.format(root=root), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.send_signal(signal.SIGKILL)


async def test_commits_that_wait_share_a_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four turns at once need far fewer writes to disk than turns."""
    sizes: list[int] = []
    commit = group_commit.GroupCommit._commit

    def count(self: group_commit.GroupCommit, jobs: list[group_commit._Job]) -> list[object]:
        sizes.append(len(jobs))
        return commit(self, jobs)

    monkeypatch.setattr(group_commit.GroupCommit, "_commit", count)
    async with opened(path) as store:
        names = [f"s{number}" for number in range(64)]
        await asyncio.gather(*(store.create([make_birth(name, parts={})]) for name in names))
        sizes.clear()
        for _ in range(5):
            await asyncio.gather(*(advance(store, name) for name in names))
        assert sum(sizes) == 320
        assert len(sizes) <= 80


async def test_a_turn_writes_its_own_part_only(path: Path) -> None:
    """However long a session's past is, the next turn rewrites none of it."""
    async with opened(path) as store:
        await store.create([make_birth(parts={f"old/{number}": bytes(50_000) for number in range(40)})])
        size = Path(f"{path}-wal").stat().st_size
        for _ in range(10):
            await advance(store)
        assert Path(f"{path}-wal").stat().st_size - size < 400_000


async def test_sessions_that_memory_does_not_hold_are_read(path: Path) -> None:
    """With hardly any memory every session still comes back whole."""
    async with opened(path, cache_bytes=1000) as store:
        for number in range(30):
            await store.create([make_birth(str(number), parts={"x": b"%d" % number * 300})])
        for number in range(30):
            await advance(store, str(number))
        for number in range(30):
            held = await take(store, str(number))
            assert (held.row.revision, held.parts["x"]) == (1, b"%d" % number * 300)
            await store.release(held)


async def test_a_full_disk_is_unavailable(path: Path) -> None:
    """A commit that finds no room changes nothing; when there is room again the same turn goes through."""
    async with opened(path, cache_bytes=0) as store:
        await store.create([make_birth(parts={"a": b"1"})])
        held = await take(store)
        change = step(held, {"large": os.urandom(300_000)})
        with _full_disk(200_000), pytest.raises(StoreUnavailable, match="cannot write"):
            await store.commit(held, change)
        again = await take(store)
        assert (again.row, again.parts) == (held.row, held.parts)
        row = await store.commit(held, change)
        assert (await take(store)).row == row
    async with opened(path) as store:
        assert (await take(store)).parts == {"a": b"1", **change.put}


async def test_on_a_full_disk_what_is_due_still_ends(path: Path) -> None:
    """The room that the log has is used again, so that expiry can free what lies in the file, and is told."""
    clock, told = FakeClock(NOW), list[Ending]()
    async with opened(path, cache_bytes=0, clock=clock, told=told.append) as store:
        for number in range(20):
            await store.create([make_birth(str(number), parts={"x": os.urandom(20_000)})])
        held = await take(store, "7")
        clock.advance(LONG.idle)
        with _full_disk(Path(f"{path}-wal").stat().st_size):
            with pytest.raises(StoreUnavailable):
                await store.commit(held, step(held, {"large": os.urandom(2_000_000)}))
            assert await store.sweep(99) == 19
            assert len(told) == 19
        await store.commit(held, step(held, {}))


@contextlib.contextmanager
def _full_disk(max_bytes: int) -> Iterator[None]:
    """No file can become larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_what_failed_counts_for_nothing(path: Path) -> None:
    """After writes that failed, counts and bytes are what the file holds, after creations and turns alike."""
    capacity = Capacity(max_sessions=3, max_bytes=600_000, evicts=False)
    async with opened(path, capacity) as store:
        await store.create([make_birth("a", parts={"x": bytes(100_000)}), make_birth("b", parts={})])
        held = await take(store, "b")
        with _full_disk(100_000):
            for call in (
                store.create([make_birth("c", parts={"x": bytes(400_000)})]),
                store.commit(held, step(held, {"x": bytes(400_000)})),
            ):
                with pytest.raises(StoreUnavailable, match="cannot write"):
                    await call
        assert await store.num_live() == 2
        await store.create([make_birth("c", parts={"x": bytes(400_000)})])
        with pytest.raises(Overloaded):
            await store.create([make_birth("d", parts={})])
        with pytest.raises(Overloaded):
            await store.acquire("ann", "a", 100_000)


async def test_a_locked_file_is_unavailable(path: Path) -> None:
    """While a tool has the file locked turns are refused in time; then the same turn goes through."""
    async with opened(path) as store:
        await store.create([make_birth(parts={})])
        held = await take(store)
        with contextlib.closing(sqlite3.connect(path)) as tool:
            tool.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.commit(held, step(held, {}))
            tool.execute("ROLLBACK")
        await store.commit(held, step(held, {}))
        assert (await advance(store)).revision == 2


async def test_a_closed_store_is_unavailable(path: Path) -> None:
    """Before the start and after the end every call is refused, and closing twice is harmless; no thread is left."""
    async with opened(path) as store:
        await store.create([make_birth(parts={})])
        held = await take(store)
    for call in (
        store.num_live(),
        store.read("ann", "s"),
        store.acquire("ann", "s"),
        store.recall("ann", "q"),
        store.list_owned("ann", (0.0, ""), 9),
        store.sweep(9),
        store.commit(held, step(held, {})),
        store.create([make_birth()]),
        store.end(held.row, EndReason.DELETED),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await call
    await store.release(held)
    await store.close()
    assert "closed" in repr(store)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")]


async def test_what_runs_at_the_close_is_finished_or_refused(path: Path) -> None:
    """Turns in flight when the store closes are acknowledged and there at the next start, or StoreUnavailable."""
    store = SqliteStore(path, WIDE, LONG, cache_bytes=0)
    await store.start(lambda ending: None)
    for number in range(20):
        await store.create([make_birth(str(number), parts={})])
    turns = [asyncio.create_task(advance(store, str(number))) for number in range(20)]
    for _ in range(12):
        await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*turns, return_exceptions=True)
    async with opened(path) as again:
        for number, outcome in enumerate(outcomes):
            row = await again.read("ann", str(number))
            assert row == outcome if isinstance(outcome, Row) else isinstance(outcome, StoreUnavailable)


async def test_a_hundred_thousand_sessions_open_quickly(path: Path) -> None:
    """Opening does not read them all into memory: it takes a small part of the time that it took to write them."""
    async with opened(path):
        pass
    sessions = ((f"n{n}", f"owner {n % 100}", n, NOW, NOW, NOW + 600, NOW + 600) for n in range(100_000))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        columns = "id, owner, incarnation, revision, position, created_at, updated_at, expires_at, check_at, num_bytes"
        connection.executemany(f"INSERT INTO sessions ({columns}) VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?, 400)", sessions)
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with opened(path, clock=FakeClock(NOW)) as store:
        assert loop.time() - started < 5.0
        assert await store.num_live() == 100_000
        assert await store.read("owner 77", "n77777") == Row("n77777", "owner 77", 77_777, 0, 0, NOW, NOW, NOW + 600)
        assert len(await store.list_owned("owner 7", (0.0, ""), 5000)) == 1000
