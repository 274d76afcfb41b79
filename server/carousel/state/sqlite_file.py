"""The file under the SQLite store: made whole, recognised, checked, locked. A file that is not ours is only ever read.

What the tables mean is the store's business.
"""

import contextlib
import fcntl
import os
import sqlite3
import struct
from pathlib import Path
from urllib.parse import quote

from carousel.errors import StoreInvalid

APPLICATION_ID = 0x4352534C  # "CRSL"
FORMAT = 1
BUSY_SECONDS = 1.0  # how long a write waits for a tool that has the file locked
_MAGIC = b"SQLite format 3\0"
_FULL_CHECK_BYTES = 64 * 2**20  # a larger file has only its index of sessions checked, so that it opens quickly
_CHECKPOINT_PAGES = 8192
_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
BEGIN;
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, incarnation INTEGER NOT NULL,
    revision INTEGER NOT NULL, position INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
    expires_at REAL NOT NULL, check_at REAL NOT NULL, num_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_owner ON sessions (owner, created_at, id);
CREATE INDEX sessions_by_use ON sessions (updated_at);
CREATE INDEX sessions_to_check ON sessions (check_at);
CREATE TABLE parts (
    session INTEGER NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, UNIQUE (session, name)
) STRICT;
CREATE TABLE endings (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE totals (num_sessions INTEGER NOT NULL, num_bytes INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES (0, 0);
CREATE TRIGGER count_new AFTER INSERT ON sessions BEGIN
    UPDATE totals SET num_sessions = num_sessions + 1, num_bytes = num_bytes + new.num_bytes;
END;
CREATE TRIGGER count_gone AFTER DELETE ON sessions BEGIN
    UPDATE totals SET num_sessions = num_sessions - 1, num_bytes = num_bytes - old.num_bytes;
END;
CREATE TRIGGER count_grown AFTER UPDATE OF num_bytes ON sessions BEGIN
    UPDATE totals SET num_bytes = num_bytes + new.num_bytes - old.num_bytes;
END;
COMMIT;
"""


def lock(path: Path) -> int:
    """A file descriptor that keeps other servers off the file for as long as it is open. Raises StoreInvalid."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreInvalid(f"{path} cannot be locked: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreInvalid(f"{path} is in use by another server") from error
    return descriptor


def open_file(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """A connection that writes and one that reads; the file is made if there is none. Raises StoreInvalid with the
    reason for a file that is foreign, damaged or of another format, and leaves it as it is."""
    try:
        if os.path.lexists(path):
            _check(path)
        else:
            _make(path)
        return _connect(path, "rw", synchronous="FULL"), _connect(path, "rw", query_only="ON")
    except (OSError, sqlite3.Error) as error:
        raise StoreInvalid(f"{path} cannot be used: {error}") from error


def _connect(path: Path, mode: str, **pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return connection


def _make(path: Path) -> None:
    """Whole under another name first, so that a crash leaves either no file or a good one."""
    draft = Path(f"{path}.new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(_connect(draft, "rw", synchronous="FULL")) as connection:
        connection.executescript(_SCHEMA)
        connection.execute("PRAGMA journal_mode = WAL")
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreInvalid(f"{path} is not an SQLite file")
    version, application_id = struct.unpack_from(">I", header, 60)[0], struct.unpack_from(">I", header, 68)[0]
    if application_id != APPLICATION_ID:
        raise StoreInvalid(f"{path} is an SQLite file of another program")
    if version != FORMAT:
        newer = "; a newer server wrote it" if version > FORMAT else ""
        raise StoreInvalid(f"{path} has format version {version}, this server reads {FORMAT}{newer}")
    table = "" if path.stat().st_size <= _FULL_CHECK_BYTES else "('sessions')"
    try:
        with contextlib.closing(_connect(path, "ro")) as connection:
            (found,) = connection.execute(f"PRAGMA quick_check{table}").fetchone()
            connection.execute("SELECT num_sessions, num_bytes FROM totals").fetchone()
    except sqlite3.Error as error:
        raise StoreInvalid(f"{path} is damaged: {error}") from error
    if found != "ok":
        raise StoreInvalid(f"{path} is damaged: {' '.join(found.split())[:200]}")
