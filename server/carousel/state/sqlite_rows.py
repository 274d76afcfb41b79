"""The SQLite store's queries and statements. Nothing is decided here."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from carousel.records import record
from carousel.state.store import Birth, Deed, Ending, EndReason, Held, Parts, Row

_ROW = "id, owner, incarnation, revision, position, created_at, updated_at, expires_at"
_NUM_FIELDS = 8
_FOUND = f"{_ROW}, key, num_bytes"
_OF_ONE = "owner = ? AND id = ?"
_MAX_ENTRIES = 2**62
_MOVE_PART = "UPDATE OR REPLACE parts SET name = ?, content = ? WHERE session = ? AND name = ?"


@record(frozen=True, slots=True)
class Found:
    """A session with its key in the file and its size."""

    row: Row
    key: int
    num_bytes: int


def find_session(connection: sqlite3.Connection, owner: str, session_id: str) -> Found | None:
    query = f"SELECT {_FOUND} FROM sessions WHERE {_OF_ONE}"
    return next(_founds(connection.execute(query, (owner, session_id))), None)


def find_ending(connection: sqlite3.Connection, owner: str, session_id: str) -> Ending | None:
    query = f"SELECT reason, at, incarnation FROM endings WHERE {_OF_ONE}"
    ended = connection.execute(query, (owner, session_id)).fetchone()
    return Ending(session_id, owner, _read_reason(ended[0]), ended[1], ended[2]) if ended is not None else None


def find(connection: sqlite3.Connection, owner: str, session_id: str) -> Row | Ending | None:
    found = find_session(connection, owner, session_id)
    return found.row if found is not None else find_ending(connection, owner, session_id)


def load(connection: sqlite3.Connection, owner: str, session_id: str) -> Held | Ending | None:
    """Returns row and parts of the same moment, within a transaction."""
    found = find_session(connection, owner, session_id)
    if found is None:
        return find_ending(connection, owner, session_id)
    return Held(found.row, dict(connection.execute("SELECT name, content FROM parts WHERE session = ?", (found.key,))))


def load_alone(connection: sqlite3.Connection, owner: str, session_id: str) -> Held | Ending | None:
    """Works as `load`, in its own transaction."""
    connection.execute("BEGIN")
    try:
        return load(connection, owner, session_id)
    finally:
        connection.execute("COMMIT")


def find_due(connection: sqlite3.Connection, now: float, count: int) -> list[Found]:
    """Returns the sessions to check now, the longest due first."""
    query = f"SELECT {_FOUND} FROM sessions WHERE check_at <= ? ORDER BY check_at LIMIT ?"
    return list(_founds(connection.execute(query, (now, count))))


def find_unused(connection: sqlite3.Connection, owner: str) -> Iterator[Found]:
    """Yields the owner's sessions, the longest unchanged first. Nothing may be written before the iterator is
    closed."""
    return _founds(connection.execute(f"SELECT {_FOUND} FROM sessions WHERE owner = ? ORDER BY updated_at", (owner,)))


def find_owned(connection: sqlite3.Connection, owner: str, after: tuple[float, str], count: int) -> list[Row]:
    query = f"SELECT {_ROW} FROM sessions WHERE owner = ? AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?"
    return [Row(*row) for row in connection.execute(query, (owner, *after, count))]


def find_deed(connection: sqlite3.Connection, owner: str, request_id: str, since: float) -> Deed | None:
    query = "SELECT fingerprint, targets FROM deeds WHERE owner = ? AND request_id = ? AND at > ?"
    found = connection.execute(query, (owner, request_id, since)).fetchone()
    if found is None:
        return None
    return Deed(owner, request_id, found[0], _read_targets(found[1]))


def _read_reason(text: str) -> EndReason:
    try:
        return EndReason(text)
    except ValueError as error:  # another program has written into the file
        raise sqlite3.DataError(f"a session ended for the reason {text!r}") from error


def _read_targets(text: str) -> tuple[tuple[str, int], ...]:
    try:
        return tuple((str(session_id), int(incarnation)) for session_id, incarnation in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise sqlite3.DataError(f"a request has the targets {text[:100]!r}") from error


def insert_session(connection: sqlite3.Connection, row: Row, parts: Parts, num_bytes: int) -> None:
    moments = (row.created_at, row.updated_at, row.expires_at, row.expires_at)
    values = (row.id, row.owner, row.incarnation, row.revision, row.position, *moments, num_bytes)
    query = f"INSERT INTO sessions ({_ROW}, check_at, num_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    key = connection.execute(query, values).lastrowid
    connection.executemany("INSERT INTO parts VALUES (?, ?, ?)", ((key, *part) for part in parts.items()))


def update_session(connection: sqlite3.Connection, old: Row, new: Row, num_bytes: int) -> int | None:
    """Returns the session's key in the file; None if the session is gone or changed."""
    query = (
        "UPDATE sessions SET revision = ?, position = ?, updated_at = ?, expires_at = ?, num_bytes = ?"
        f" WHERE {_OF_ONE} AND incarnation = ? AND revision = ? RETURNING key"
    )
    values = (new.revision, new.position, new.updated_at, new.expires_at, num_bytes)
    found = connection.execute(query, (*values, old.owner, old.id, old.incarnation, old.revision)).fetchall()
    return int(found[0][0]) if found else None


def change_parts(connection: sqlite3.Connection, key: int, put: Parts, drop: Iterable[str]) -> None:
    """New parts take the place of dropped ones in the file, so that fewer pages are written."""
    left = [name for name in drop if name not in put]
    for name, content in put.items():
        is_numbered = "/" in name  # others are the same parts again and again
        old = name if not is_numbered or not left else left.pop()
        if not connection.execute(_MOVE_PART, (name, content, key, old)).rowcount:
            connection.execute("INSERT INTO parts VALUES (?, ?, ?)", (key, name, content))
    connection.executemany("DELETE FROM parts WHERE session = ? AND name = ?", ((key, name) for name in left))


def postpone(connection: sqlite3.Connection, founds: Iterable[Found]) -> None:
    """Sets the next check of these sessions to their current expiry."""
    moved = ((found.row.expires_at, found.key) for found in founds)
    connection.executemany("UPDATE sessions SET check_at = ? WHERE key = ?", moved)


def delete_session(connection: sqlite3.Connection, key: int) -> None:
    connection.execute("DELETE FROM sessions WHERE key = ?", (key,))
    connection.execute("DELETE FROM parts WHERE session = ?", (key,))


def insert_ending(connection: sqlite3.Connection, ending: Ending) -> None:
    values = (ending.owner, ending.id, ending.incarnation, ending.reason.value, ending.at)
    connection.execute("INSERT INTO endings (owner, id, incarnation, reason, at) VALUES (?, ?, ?, ?, ?)", values)


def delete_ending(connection: sqlite3.Connection, birth: Birth) -> bool:
    """Returns whether there was one."""
    return connection.execute(f"DELETE FROM endings WHERE {_OF_ONE}", (birth.owner, birth.id)).rowcount > 0


def insert_deed(connection: sqlite3.Connection, deed: Deed, at: float) -> None:
    values = (deed.owner, deed.request_id, deed.fingerprint, json.dumps(deed.targets), at)
    connection.execute("INSERT INTO deeds (owner, request_id, fingerprint, targets, at) VALUES (?, ?, ?, ?, ?)", values)


def delete_deed(connection: sqlite3.Connection, owner: str, request_id: str) -> bool:
    """Returns whether there was one."""
    return connection.execute("DELETE FROM deeds WHERE owner = ? AND request_id = ?", (owner, request_id)).rowcount > 0


def delete_oldest(connection: sqlite3.Connection, table: str, count: int, owner: str) -> int:
    """Deletes the owner's oldest endings or deeds. Returns how many there were."""
    oldest = f"SELECT number FROM {table} WHERE owner = ? ORDER BY number LIMIT ?"
    return connection.execute(f"DELETE FROM {table} WHERE number IN ({oldest})", (owner, count)).rowcount


def delete_deeds_before(connection: sqlite3.Connection, moment: float, count: int) -> list[str]:
    """Deletes the oldest deeds before the moment. Returns their owners."""
    oldest = "SELECT number FROM deeds ORDER BY number LIMIT ?"
    query = f"DELETE FROM deeds WHERE number IN ({oldest}) AND at <= ? RETURNING owner"
    return [one for (one,) in connection.execute(query, (count, moment)).fetchall()]


def insert_entry(connection: sqlite3.Connection, number: int, content: bytes) -> None:
    connection.execute("INSERT INTO turn_log VALUES (?, ?)", (number, content))


def delete_entries(connection: sqlite3.Connection, number: int) -> None:
    """Deletes the entries up to that number."""
    connection.execute("DELETE FROM turn_log WHERE number <= ?", (number,))


def find_entries(connection: sqlite3.Connection) -> list[bytes]:
    return [content for (content,) in connection.execute("SELECT content FROM turn_log ORDER BY number")]


def find_last_entry(connection: sqlite3.Connection) -> int:
    """Returns its number; 0 if there is none."""
    last = int(connection.execute("SELECT coalesce(max(number), 0) FROM turn_log").fetchone()[0])
    if last >= _MAX_ENTRIES:
        raise sqlite3.DataError(f"an entry of the turn log has the number {last}")
    return last


def _founds(rows: Iterable[tuple[Any, ...]]) -> Iterator[Found]:
    return (Found(Row(*row[:_NUM_FIELDS]), row[-2], row[-1]) for row in rows)
