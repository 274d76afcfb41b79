"""The file of the SQLite store: created atomically, recognised, checked, locked. A foreign file is only ever read.

The store knows what the tables mean.
"""

import contextlib
import fcntl
import os
import sqlite3
import struct
from pathlib import Path
from urllib.parse import quote

from carousel.errors import StoreInvalid
from carousel.state.sqlite_format import APPLICATION_ID, FORMAT, OLDEST_FORMAT, make_tables, migrate, read_format

BUSY_SECONDS = 1.0  # how long a write waits for a tool that has the file locked
_MAGIC = b"SQLite format 3\0"
_FULL_CHECK_BYTES = 64 * 2**20  # of a larger file only the session index is checked, so that it opens quickly
_CHECKPOINT_PAGES = 8192


def lock(path: Path) -> int:
    """Returns a file descriptor that keeps other servers off the file while it is open. Raises StoreInvalid."""
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
    """Returns a connection that writes and one that reads. Creates a missing file, and migrates one of the previous
    format. Raises StoreInvalid with the reason for a file that is foreign, damaged, of an unknown format or not
    writable, and leaves it unchanged."""
    try:
        if os.path.lexists(path):
            _check(path)
        else:
            _make(path)
        return _open_writer(path), _connect(path, "rw", query_only="ON")
    except (OSError, sqlite3.Error) as error:
        raise StoreInvalid(f"{path} cannot be used: {error}") from error


def _open_writer(path: Path) -> sqlite3.Connection:
    connection = _connect(path, "rw", synchronous="FULL")
    try:
        connection.execute("BEGIN IMMEDIATE")  # finds an unwritable file now, not at the first turn
        connection.execute("ROLLBACK")
        if read_format(connection) != FORMAT:
            migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


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
    """Creates the file under another name first, so that a crash leaves either no file or a good one."""
    draft = Path(f"{path}.new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(_connect(draft, "rw", synchronous="FULL")) as connection:
        make_tables(connection)
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
    _check_format(path, version)
    table = "" if path.stat().st_size <= _FULL_CHECK_BYTES else "('sessions')"
    try:
        with contextlib.closing(_connect(path, "ro")) as connection:
            _check_format(path, read_format(connection))
            (found,) = connection.execute(f"PRAGMA quick_check{table}").fetchone()
            connection.execute("SELECT key, owner, num_bytes FROM sessions").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from a name or message that is not text
        raise StoreInvalid(f"{path} is damaged: {error}") from error
    if found != "ok":
        raise StoreInvalid(f"{path} is damaged: {' '.join(found.split())[:200]}")


def _check_format(path: Path, version: int) -> None:
    if not OLDEST_FORMAT <= version <= FORMAT:
        newer = "; a newer server wrote it" if version > FORMAT else ""
        raise StoreInvalid(f"{path} has format version {version}, this server reads {FORMAT}{newer}")
