"""What is particular to sessions in a file: it survives, it is checked, it is locked, and it can be full."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.server.state.conftest import NOW, WIDE, advance, make_row, step, take

from carousel.errors import StoreInvalid, StoreUnavailable
from carousel.state import group_commit
from carousel.state.memory import Capacity
from carousel.state.sqlite_file import open_file
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Durability, Ending, EndReason, Held, Row


@contextlib.asynccontextmanager
async def opened(path: Path, capacity: Capacity = WIDE, cache_bytes: int = 2**20) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, capacity, cache_bytes)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


async def test_everything_survives_a_restart(path: Path) -> None:
    """Rows, parts, endings, order and counts are after a restart what they were."""
    async with opened(path) as store:
        for name in "abc":
            await store.create(make_row(name), {"at/0": b"0"})
        row = await advance(store, "b")
        await store.end(make_row("x"), EndReason.IDLE, NOW)
        gone = await store.read("c")
        assert isinstance(gone, Row)
        await store.end(gone, EndReason.AGE, NOW + 1)
        rows = await store.list_owned("ann", (0.0, ""), 9)
    async with opened(path) as store:
        assert store.durability is Durability.EACH_TURN
        assert await store.list_owned("ann", (0.0, ""), 9) == rows
        assert (await take(store, "b")) == Held(row, {"at/0": b"0", "at/1": b"0"})
        assert await store.read("c") == Ending("c", "ann", EndReason.AGE, NOW + 1)
        assert await store.num_live() == 2


_CLIENT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.server.state.conftest import WIDE, advance, make_row
from carousel.state.sqlite_file import open_file
from carousel.state.sqlite_store import SqliteStore

async def live(store, name):
    await store.create(make_row(name), {{}})
    while True:
        row = await advance(store, name)
        print(name, row.revision, flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]), WIDE)
    await store.start()
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
                await store.end(held.row, EndReason.DELETED, NOW)
            for row in await store.list_owned("ann", (0.0, ""), 99):
                await store.end(row, EndReason.DELETED, NOW)


@contextlib.contextmanager
def _client(root: str, path: Path) -> Iterator[Iterator[str]]:
    command = [sys.executable, "-c", _CLIENT.format(root=root), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.send_signal(signal.SIGKILL)


def test_a_commit_waits_for_the_disk(path: Path) -> None:
    """Power may fail after an acknowledgement: the log is synchronised at every commit, also of a file made before."""
    for _ in range(2):
        writer, reader = open_file(path)
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM sessions")
        reader.close()
        writer.close()


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
        await asyncio.gather(*(store.create(make_row(name), {}) for name in names))
        sizes.clear()
        for _ in range(5):
            await asyncio.gather(*(advance(store, name) for name in names))
        assert sum(sizes) == 320
        assert len(sizes) <= 80


async def test_a_turn_writes_its_own_part_only(path: Path) -> None:
    """However long a session's past is, the next turn rewrites none of it."""
    async with opened(path) as store:
        await store.create(make_row(), {f"old/{number}": bytes(50_000) for number in range(40)})
        size = Path(f"{path}-wal").stat().st_size
        for _ in range(10):
            await advance(store)
        assert Path(f"{path}-wal").stat().st_size - size < 400_000


async def test_sessions_that_memory_does_not_hold_are_read(path: Path) -> None:
    """With hardly any memory every session still comes back whole."""
    async with opened(path, cache_bytes=1000) as store:
        for number in range(30):
            await store.create(make_row(str(number)), {"x": b"%d" % number * 300})
        for number in range(30):
            await advance(store, str(number))
        for number in range(30):
            held = await take(store, str(number))
            assert (held.row.revision, held.parts["x"]) == (1, b"%d" % number * 300)
            await store.release(held)


async def test_a_session_in_a_turn_is_not_evicted(path: Path) -> None:
    """The longest unused goes, but not one that is held, known or not yet read."""
    async with opened(path, Capacity(max_sessions=3, max_bytes=2**30, evicts=True), cache_bytes=0) as store:
        for number, name in enumerate("abc"):
            await store.create(make_row(name, created_at=NOW + number), {})
        held = await take(store, "a")
        evicted = await store.create(make_row("d", created_at=NOW + 9), {})
        assert [ending.id for ending in evicted] == ["b"]
        await store.commit(held, step(held, {}))
        await store.release(held)
        await store.release(await take(store, "c"))
        assert [ending.id for ending in await store.create(make_row("e", created_at=NOW + 9), {})] == ["a"]


async def test_a_file_in_use_is_refused(path: Path) -> None:
    """A second server on the file is told so, and the first goes on; afterwards the file is free."""
    async with opened(path) as store:
        with pytest.raises(StoreInvalid, match=r"sessions\.db is in use by another server"):
            await SqliteStore(path, WIDE).start()
        await store.create(make_row(), {})
    async with opened(path) as store:
        assert await store.num_live() == 1


def _make_garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough to hold a header" * 4)


def _make_empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sessions (id TEXT)")


def _make_newer(path: Path) -> None:
    asyncio.run(_fill(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _truncate(path: Path) -> None:
    asyncio.run(_fill(path))
    os.truncate(path, path.stat().st_size // 2)


def _scribble(path: Path) -> None:
    asyncio.run(_fill(path))
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = bytes(byte ^ 0x5A for byte in content[4096:])
    path.write_bytes(content)


async def _fill(path: Path) -> None:
    async with opened(path) as store:
        for number in range(50):
            await store.create(make_row(str(number)), {"x": bytes(3000)})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_make_garbage, "is not an SQLite file"),
        (_make_empty, "is not an SQLite file"),
        (_make_foreign, "another program"),
        (_make_newer, "format version 2, this server reads 1; a newer server wrote it"),
        (_truncate, "is damaged"),
        (_scribble, "is damaged"),
    ],
)
def test_a_file_that_is_not_good_is_left_alone(path: Path, spoil: object, reason: str) -> None:
    """It is refused by name and reason, stays as it is byte for byte, and is not locked afterwards."""
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreInvalid, match=rf"sessions\.db .*{reason}"):
            asyncio.run(SqliteStore(path, WIDE).start())
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["missing/sessions.db", "."])
async def test_a_place_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    """A directory that is not there, or is the file itself, is StoreInvalid at once."""
    with pytest.raises(StoreInvalid):
        await SqliteStore(tmp_path / name, WIDE).start()


async def test_a_start_that_was_killed_is_made_again(path: Path) -> None:
    """A half-made file under its draft name does not stand in the way."""
    Path(f"{path}.new").write_bytes(b"half")
    async with opened(path) as store:
        await store.create(make_row(), {})
    assert sorted(file.name for file in path.parent.iterdir()) == ["sessions.db", "sessions.db.lock"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_full_disk_is_unavailable(path: Path) -> None:
    """A commit that finds no room changes nothing; when there is room again the same turn goes through."""
    async with opened(path, cache_bytes=0) as store:
        await store.create(make_row(), {"a": b"1"})
        held = await take(store)
        change = step(held, {"large": os.urandom(300_000)})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            with pytest.raises(StoreUnavailable, match="cannot write"):
                await store.commit(held, change)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await take(store) == held
        await store.commit(held, change)
        assert (await take(store)).row == change.row
    async with opened(path) as store:
        assert (await take(store)).parts == {"a": b"1", **change.put}


async def test_a_locked_file_is_unavailable(path: Path) -> None:
    """While a tool has the file locked turns are refused in time; then the same turn goes through."""
    async with opened(path) as store:
        await store.create(make_row(), {})
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
        await store.create(row := make_row(), {})
        held = await take(store)
    for call in (
        store.num_live(),
        store.read("s"),
        store.take("s"),
        store.due(NOW),
        store.commit(held, step(held, {})),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await call
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.create(row, {})
    await store.close()
    assert "closed" in repr(store)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")]


async def test_what_runs_at_the_close_is_finished_or_refused(path: Path) -> None:
    """Turns in flight when the store closes are acknowledged and there at the next start, or StoreUnavailable."""
    store = SqliteStore(path, WIDE, cache_bytes=0)
    await store.start()
    for number in range(20):
        await store.create(make_row(str(number)), {})
    turns = [asyncio.create_task(advance(store, str(number))) for number in range(20)]
    for _ in range(12):
        await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*turns, return_exceptions=True)
    async with opened(path) as again:
        for number, outcome in enumerate(outcomes):
            row = await again.read(str(number))
            assert row == outcome if isinstance(outcome, Row) else isinstance(outcome, StoreUnavailable)


async def test_a_hundred_thousand_sessions_open_quickly(path: Path) -> None:
    """Opening does not read them all into memory: it takes a small part of the time that it took to write them."""
    async with opened(path):
        pass
    rows = [make_row(str(number), f"owner {number % 100}") for number in range(100_000)]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        values = ((row.id, row.owner, row.incarnation, NOW, NOW, NOW + 600, NOW + 600) for row in rows)
        columns = "id, owner, incarnation, revision, position, created_at, updated_at, expires_at, check_at, num_bytes"
        connection.executemany(f"INSERT INTO sessions ({columns}) VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?, 400)", values)
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with opened(path) as store:
        assert loop.time() - started < 5.0
        assert await store.num_live() == 100_000
        assert await store.read("77777") == rows[77_777]
        assert len(await store.list_owned("owner 7", (0.0, ""), 5000)) == 1000
