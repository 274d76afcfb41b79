"""The tables of the SQLite store's file, and the migration of a file of an earlier format."""

import contextlib
import sqlite3

APPLICATION_ID = 0x4352534C  # "CRSL"
FORMAT = 3
OLDEST_FORMAT = 1  # the oldest format that can be migrated

# The sweep checks a session again at `check_at`, which moves when that time comes and not at every turn.
_TABLES = (
    """CREATE TABLE sessions (
        key INTEGER PRIMARY KEY, owner TEXT NOT NULL, id TEXT NOT NULL, incarnation INTEGER NOT NULL,
        revision INTEGER NOT NULL, position INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
        expires_at REAL NOT NULL, check_at REAL NOT NULL, num_bytes INTEGER NOT NULL, UNIQUE (owner, id)
    ) STRICT""",
    """CREATE TABLE endings (
        number INTEGER PRIMARY KEY, owner TEXT NOT NULL, id TEXT NOT NULL, incarnation INTEGER NOT NULL,
        reason TEXT NOT NULL, at REAL NOT NULL, UNIQUE (owner, id)
    ) STRICT""",
    """CREATE TABLE deeds (
        number INTEGER PRIMARY KEY, owner TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
        targets TEXT NOT NULL, at REAL NOT NULL, UNIQUE (owner, request_id)
    ) STRICT""",
)
_PARTS = """CREATE TABLE parts (
    session INTEGER NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, UNIQUE (session, name)
) STRICT"""
_TURN_LOG = "CREATE TABLE turn_log (number INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT"
_INDICES = (
    "CREATE INDEX sessions_by_age ON sessions (owner, created_at, id)",
    "CREATE INDEX sessions_by_use ON sessions (owner, updated_at)",
    "CREATE INDEX sessions_to_check ON sessions (check_at)",
    "CREATE INDEX endings_by_age ON endings (owner, number)",
    "CREATE INDEX deeds_by_age ON deeds (owner, number)",
)
_NUMBERS = "incarnation, revision, position, created_at, updated_at, expires_at, check_at, num_bytes"
_MARKS = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {FORMAT}")
_SCHEMA = (*_TABLES, _PARTS, _TURN_LOG, *_INDICES, *_MARKS)
# Parts, nearly all of the file, stay in place: sessions keep their keys.
_FROM_FORMAT_1 = (
    "DROP INDEX sessions_by_owner",
    "DROP INDEX sessions_by_use",
    "DROP INDEX sessions_to_check",
    "DROP TRIGGER count_new",
    "DROP TRIGGER count_gone",
    "DROP TRIGGER count_grown",
    "DROP TABLE totals",
    "ALTER TABLE sessions RENAME TO old_sessions",
    "ALTER TABLE endings RENAME TO old_endings",
    *_TABLES,
    f"INSERT INTO sessions (key, owner, id, {_NUMBERS}) SELECT key, owner, id, {_NUMBERS} FROM old_sessions",
    "INSERT INTO endings (number, owner, id, incarnation, reason, at)"
    " SELECT number, owner, id, 0, reason, at FROM old_endings",
    "DROP TABLE old_sessions",
    "DROP TABLE old_endings",
    _TURN_LOG,
    *_INDICES,
    *_MARKS,
)
_FROM_FORMAT_2 = (_TURN_LOG, *_MARKS)


def make_tables(connection: sqlite3.Connection) -> None:
    """Creates the tables in an empty file."""
    _run_all(connection, _SCHEMA)


def migrate(connection: sqlite3.Connection) -> None:
    """Migrates from an earlier format, in one transaction. On return the main file itself has the new format, not only
    the log: an older server looks there."""
    _run_all(connection, _FROM_FORMAT_1 if read_format(connection) == 1 else _FROM_FORMAT_2)
    with contextlib.suppress(sqlite3.Error):  # then only the log has it; capable readers see that
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def read_format(connection: sqlite3.Connection) -> int:
    """Returns the log's format, which may be ahead of the file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _run_all(connection: sqlite3.Connection, statements: tuple[str, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")
