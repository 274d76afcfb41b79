"""The SQLite store's file: checked, locked, and brought from the format before to this one wholly or not at all."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, advance, make_birth, take
from tests.server.state.opening import opened

from carousel.errors import StoreInvalid
from carousel.state import sqlite_file, sqlite_format
from carousel.state.sqlite_file import open_file
from carousel.state.store import Capacity, Ending, EndReason, Row

FILES = Path(__file__).parent / "files"
KNOWN: dict[str, Any] = json.loads((FILES / "format_1.json").read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def old_path(path: Path) -> Path:
    """A file of format 1."""
    shutil.copyfile(FILES / "format_1.db", path)
    return path


def _start(path: Path) -> None:
    """Raises what the start raises."""

    async def start_and_close() -> None:
        async with opened(path):
            pass

    asyncio.run(start_and_close())


async def test_a_file_in_use_is_refused(path: Path) -> None:
    """A second server on the file gets an error, and the first continues; afterwards the file is free."""
    async with opened(path) as store:
        with pytest.raises(StoreInvalid, match=r"sessions\.db is in use by another server"):
            async with opened(path):
                pass
        await store.create([make_birth()])
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
    _set_format(path, 4)


def _make_ancient(path: Path) -> None:
    _set_format(path, 0)


def _set_format(path: Path, number: int) -> None:
    asyncio.run(_fill(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _truncate(path: Path) -> None:
    asyncio.run(_fill(path))
    os.truncate(path, path.stat().st_size // 2)


def _scribble(path: Path) -> None:
    asyncio.run(_fill(path))
    _alter(path)


def _truncate_old(path: Path) -> None:
    shutil.copyfile(FILES / "format_1.db", path)
    os.truncate(path, path.stat().st_size // 2)


def _scribble_old(path: Path) -> None:
    shutil.copyfile(FILES / "format_1.db", path)
    _alter(path)


def _misspell(path: Path) -> None:
    """A name in the schema that is no text."""
    asyncio.run(_fill(path))
    path.write_bytes(path.read_bytes().replace(b"TABLE parts", b"TABLE \xff\xfe\xff\xfe\xff"))


def _number_high(path: Path) -> None:
    asyncio.run(_fill(path))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO turn_log VALUES (?, x'00')", (2**63 - 1,))


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = bytes(byte ^ 0x5A for byte in content[4096:])
    path.write_bytes(content)


async def _fill(path: Path) -> None:
    async with opened(path) as store:
        for number in range(50):
            await store.create([make_birth(str(number), parts={"x": bytes(3000)})])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_make_garbage, "is not an SQLite file"),
        (_make_empty, "is not an SQLite file"),
        (_make_foreign, "another program"),
        (_make_newer, "format version 4, this server reads 3; a newer server wrote it"),
        (_make_ancient, "format version 0, this server reads 3"),
        (_truncate, "is damaged"),
        (_scribble, "is damaged"),
        (_misspell, "is damaged"),
        (_number_high, "is damaged: an entry of the turn log has the number"),
        (_truncate_old, "is damaged"),
        (_scribble_old, "is damaged"),
    ],
)
def test_a_file_that_is_not_good_is_left_alone(path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    """It is refused with name and reason, stays unchanged byte for byte, and is not locked afterwards."""
    spoil(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreInvalid, match=rf"sessions\.db .*{reason}"):
            _start(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["missing/sessions.db", "."])
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    """A directory that is not there, or is the file itself, is StoreInvalid at once."""
    with pytest.raises(StoreInvalid):
        _start(tmp_path / name)


async def test_a_start_that_was_killed_is_made_again(path: Path) -> None:
    """A half-made file under its draft name does not stand in the way."""
    Path(f"{path}.new").write_bytes(b"half")
    async with opened(path) as store:
        await store.create([make_birth()])
    assert sorted(file.name for file in path.parent.iterdir()) == ["sessions.db", "sessions.db.lock"]
    assert path.stat().st_mode & 0o777 == 0o600


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


async def test_a_file_of_the_format_before_goes_on(old_path: Path) -> None:
    """What commit a313990 wrote is all there: rows, parts, answers, endings; its sessions go on, also after another
    start, and ids are then each owner's own."""
    clock = FakeClock(KNOWN["saved_at"])
    rows = [Row(*one["row"]) for one in KNOWN["sessions"]]
    for _ in range(2):
        async with opened(old_path, clock=clock) as store:
            assert await store.num_live() == 2
            for row, one in zip(rows, KNOWN["sessions"], strict=True):
                held = await take(store, row.id, row.owner)
                assert held.row == row
                digests = {name: hashlib.sha256(part).hexdigest() for name, part in held.parts.items()}
                assert digests == one["parts"]
                assert any(name.startswith("answer/") for name in digests)
                await store.release(held)
            for session_id, owner, reason, at in KNOWN["endings"]:
                assert await store.read(owner, session_id) == Ending(session_id, owner, EndReason(reason), at)
    async with opened(old_path, clock=clock) as store:
        assert (await advance(store, "story")).revision == rows[0].revision + 1
        assert await store.read("bob", "story") is None
        await store.create([make_birth("story", "bob"), make_birth("gone", "bob")])
        clock.advance(LONG.idle)
        assert await store.sweep(9) == 4


def test_what_a_killed_server_left_in_its_log_is_migrated(old_path: Path, tmp_path: Path) -> None:
    """Turns of the format before that were not yet written from the log into the file are there as well."""
    left = tmp_path / "left.db"
    with contextlib.closing(sqlite3.connect(old_path)) as connection:
        connection.execute("UPDATE sessions SET position = 77 WHERE id = 'story'")
        connection.commit()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{old_path}{suffix}", f"{left}{suffix}")
    writer, reader = open_file(left)
    assert reader.execute("SELECT position FROM sessions WHERE owner = 'ann'").fetchall() == [(77,)]
    reader.close()
    writer.close()


async def test_a_file_of_format_2_goes_on(path: Path) -> None:
    """One without a log of turns; older servers refuse it from then on, for they would not read the log."""
    async with opened(path) as store:
        await store.create([make_birth()])
        row = await advance(store)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE turn_log")
        connection.execute("PRAGMA user_version = 2")
    for _ in range(2):
        async with opened(path) as store:
            assert await store.read("ann", "s") == row
            assert path.read_bytes()[60:64] == bytes([0, 0, 0, 3])
            await store.append(b"entry", lambda _: None)
            assert set(await store.read_log()) == {b"entry"}
            row = await advance(store)


def test_a_server_of_the_format_before_refuses_the_new_one(old_path: Path) -> None:
    """It looks at the version in the main file; that is there as soon as the file is open, also if nobody closes it."""
    writer, reader = open_file(old_path)
    header = old_path.read_bytes()[:100]
    assert int.from_bytes(header[60:64], "big") == sqlite_format.FORMAT == 3
    reader.close()
    writer.close()


def test_of_a_migration_that_stops_nothing_is_seen(old_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stops, the file is of the format before, whole; the next start then brings it to this one."""
    before = _dump(old_path)
    statements = sqlite_format._FROM_FORMAT_1
    for number in range(len(statements)):
        broken = (*statements[:number], "SELECT no_such_thing", *statements[number:])
        monkeypatch.setattr(sqlite_format, "_FROM_FORMAT_1", broken)
        with pytest.raises(StoreInvalid, match="no_such_thing"):
            _start(old_path)
        assert _dump(old_path) == before
    monkeypatch.setattr(sqlite_format, "_FROM_FORMAT_1", statements)
    _start(old_path)
    assert "deeds" in "\n".join(_dump(old_path))


_MIGRATION = """
import os, signal, sys
from pathlib import Path
from carousel.state import sqlite_format
from carousel.state.sqlite_file import open_file

statements, number = sqlite_format._FROM_FORMAT_1, int(sys.argv[2])
def run_some(connection, statements):
    connection.execute("PRAGMA cache_size = 1")  # what is changed goes into the log at once
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements[:number]:
        connection.execute(statement)
    os.kill(os.getpid(), signal.SIGKILL)
sqlite_format._run_all = run_some
open_file(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [1, 10, len(sqlite_format._FROM_FORMAT_1)])
def test_a_kill_during_a_migration_leaves_the_format_before(old_path: Path, number: int) -> None:
    """After SIGKILL in the middle the file is as it was, and the next start goes through."""
    before = _dump(old_path)
    killed = subprocess.run([sys.executable, "-c", _MIGRATION, str(old_path), str(number)], check=False)
    assert killed.returncode == -9
    assert _dump(old_path) == before
    _start(old_path)


def test_many_sessions_are_migrated_in_seconds(old_path: Path) -> None:
    """A hundred thousand sessions with their parts take a few seconds: the parts stay where they are."""
    with contextlib.closing(sqlite3.connect(old_path)) as connection, connection:
        sessions = ((f"n{n}", f"owner {n % 100}", n, NOW, NOW, NOW + 600, NOW + 600) for n in range(100_000))
        columns = "id, owner, incarnation, revision, position, created_at, updated_at, expires_at, check_at, num_bytes"
        connection.executemany(f"INSERT INTO sessions ({columns}) VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?, 500)", sessions)
        connection.execute("INSERT INTO parts SELECT key, 'x', zeroblob(100) FROM sessions WHERE id LIKE 'n%'")
    started = time.monotonic()
    writer, reader = open_file(old_path)
    assert time.monotonic() - started < 10.0
    assert reader.execute("SELECT count(*) FROM sessions").fetchone() == (100_002,)
    found = "SELECT content FROM parts JOIN sessions ON session = key WHERE owner = 'owner 77' AND id = 'n77777'"
    assert reader.execute(found.replace("owner 77'", f"owner {77_777 % 100}'")).fetchone() == (bytes(100),)
    reader.close()
    writer.close()


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_cannot_be_written_is_refused_and_stays(tmp_path: Path, what: str, is_old: bool) -> None:
    """A file or a directory that is only to be read is StoreInvalid at the start and not at the first turn; the file
    stays as it is."""
    if any(not parent.stat().st_mode & 0o001 for parent in tmp_path.parents) and os.geteuid() == 0:
        for parent in (tmp_path, *tmp_path.parents[:2]):
            parent.chmod(0o755)
    directory = tmp_path / "place"
    directory.mkdir()
    path = directory / "sessions.db"
    if is_old:
        shutil.copyfile(FILES / "format_1.db", path)
    else:
        asyncio.run(_fill(path))
        Path(f"{path}.lock").unlink()
    before = path.read_bytes()
    path.chmod(0o444 if what == "file" else 0o666)
    directory.chmod(0o555 if what == "directory" else 0o777)
    try:
        with _as_nobody(), pytest.raises(StoreInvalid, match=r"sessions\.db"):
            _start(path)
    finally:
        directory.chmod(0o755)
    assert path.read_bytes() == before


def test_a_large_file_is_checked_in_part(old_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a bound only the sessions are checked, so that it opens quickly; it is migrated all the same."""
    monkeypatch.setattr(sqlite_file, "_FULL_CHECK_BYTES", 1000)
    _start(old_path)
    assert "deeds" in "\n".join(_dump(old_path))


async def test_a_file_that_fits_no_more_is_swept(path: Path) -> None:
    """A store whose capacity was lowered opens, and evicts what is too much where it may."""
    async with opened(path) as store:
        for number in range(5):
            await store.create([make_birth(str(number))])
    told: list[Ending] = []
    capacity = Capacity(max_sessions=2, max_bytes=2**30, evicts=True)
    async with opened(path, capacity, told=told.append) as store:
        assert await store.sweep(2) == 2
        assert await store.sweep(99) == 1
        assert await store.sweep(99) == 0
    assert [(ending.id, ending.reason) for ending in told] == [(str(n), EndReason.EVICTED) for n in range(3)]


def _dump(path: Path) -> list[str]:
    """Schema, contents and version."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]
