"""Sessions in one SQLite file that this server has for itself: durable at each turn, more than memory holds.

Parts are rows, so a turn writes its own snapshot and not the session's past. What was written last is kept in memory.
"""

import asyncio
import collections
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from carousel.errors import Overloaded, SessionExists, SessionMoved, StoreUnavailable
from carousel.state.group_commit import GroupCommit
from carousel.state.memory import MAX_ENDINGS, Capacity
from carousel.state.recent import Recent
from carousel.state.sqlite_file import lock, open_file
from carousel.state.store import Change, Durability, Ending, EndReason, Held, Parts, Row

Result = TypeVar("Result")
_ROW = "id, owner, incarnation, revision, position, created_at, updated_at, expires_at"
_ROW_BYTES = 400  # a row and its places in the indices
_MAX_DUE = 256
_CACHE_BYTES = 256 * 2**20


class SqliteStore:
    """A SessionStore. Of the sessions that no turn holds, the one that was changed longest ago is evicted first."""

    durability = Durability.EACH_TURN
    is_immediate = False

    def __init__(self, path: Path, capacity: Capacity, cache_bytes: int = _CACHE_BYTES) -> None:
        self._path = path
        self._capacity = capacity
        self._recent: Recent[Held] = Recent(cache_bytes)
        self._held: collections.Counter[str] = collections.Counter()
        self._lock: int | None = None
        self._writer: GroupCommit | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        state = "open" if self._writer is not None else "closed"
        return f"SqliteStore({self._path}, {state}, {self._held.total()} held, {self._recent})"

    async def start(self) -> None:
        self._lock = await asyncio.to_thread(lock, self._path)
        try:
            connection, self._reader = await asyncio.to_thread(open_file, self._path)
        except BaseException:
            self._unlock()
            raise
        self._writer = GroupCommit(connection, self._recent.clear)
        self._reading = ThreadPoolExecutor(1, "store-reader")

    async def close(self) -> None:
        writer, reading, reader = self._writer, self._reading, self._reader
        self._writer = self._reading = self._reader = None  # from now on calls are refused
        if writer is not None and reading is not None and reader is not None:
            await asyncio.to_thread(reading.shutdown)
            reader.close()
            await writer.close()
        self._recent.clear()
        self._unlock()

    async def create(self, row: Row, parts: Parts) -> list[Ending]:
        num_bytes = _weigh(parts)

        def work(connection: sqlite3.Connection) -> list[Ending]:
            if connection.execute("SELECT 1 FROM sessions WHERE id = ?", (row.id,)).fetchone():
                raise SessionExists(f"session {row.id} exists already")
            victims = self._choose_victims(connection, num_bytes)
            evicted = [_end(connection, victim, EndReason.EVICTED, row.created_at) for victim in victims]
            _insert(connection, row, parts, num_bytes)
            return evicted

        def then(evicted: list[Ending]) -> None:
            for ending in evicted:
                self._recent.drop(ending.id)
            self._recent.put(row.id, Held(row, dict(parts)), num_bytes)

        return await self._write(work, then)

    async def read(self, session_id: str) -> Row | Ending | None:
        held = self._recent.get(session_id)
        return held.row if held is not None else await self._read(lambda reader: _find(reader, session_id))

    async def take(self, session_id: str) -> Held | Ending | None:
        self._held[session_id] += 1  # before anything is awaited: it must not be evicted meanwhile
        held: Held | Ending | None = None
        try:
            held = self._recent.get(session_id) or await self._read(lambda reader: _load(reader, session_id))
            return held
        finally:
            if not isinstance(held, Held):
                self._let_go(session_id)

    async def commit(self, held: Held, change: Change) -> None:
        dropped = set(change.drop)
        parts = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        num_bytes = _weigh(parts)
        await self._write(
            lambda connection: _apply(connection, held.row, change, num_bytes),
            lambda _: self._recent.put(change.row.id, Held(change.row, parts), num_bytes),
        )

    async def release(self, held: Held) -> None:
        self._let_go(held.row.id)

    async def end(self, row: Row, reason: EndReason, now: float) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            query = "SELECT key, id, owner FROM sessions WHERE id = ? AND incarnation = ?"
            found = connection.execute(query, (row.id, row.incarnation)).fetchone()
            if found is not None:
                _end(connection, found, reason, now)
            return found is not None

        return await self._write(work, lambda was_there: self._recent.drop(row.id) if was_there else None)

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        query = (
            f"SELECT {_ROW} FROM sessions WHERE owner = ? AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?"
        )
        return await self._read(lambda reader: [Row(*row) for row in reader.execute(query, (owner, *after, count))])

    async def due(self, now: float) -> list[Row]:
        while True:
            rows = await self._read(lambda reader: _find_due(reader, now))
            used_since = [row for row in rows if row.expires_at > now]
            if not used_since:
                return rows
            await self._postpone(used_since)

    async def excess(self) -> list[Row]:
        return []  # room is made when sessions are created

    async def num_live(self) -> int:
        def count(reader: sqlite3.Connection) -> int:
            return int(reader.execute("SELECT num_sessions FROM totals").fetchone()[0])

        return await self._read(count)

    def durable_position(self, row: Row) -> int:
        return row.position

    async def _postpone(self, rows: list[Row]) -> None:
        """When to look at them again: moved here and not at every turn."""

        def work(connection: sqlite3.Connection) -> None:
            moved = ((row.expires_at, row.id, row.incarnation) for row in rows)
            connection.executemany("UPDATE sessions SET check_at = ? WHERE id = ? AND incarnation = ?", moved)

        await self._write(work, lambda _: None)

    def _choose_victims(self, connection: sqlite3.Connection, num_bytes: int) -> list[tuple[int, str, str]]:
        num_live, total = connection.execute("SELECT num_sessions, num_bytes FROM totals").fetchone()
        num_sessions, victims = num_live, []
        oldest = connection.execute("SELECT key, id, owner, num_bytes FROM sessions ORDER BY updated_at")
        while num_sessions >= self._capacity.max_sessions or (
            num_sessions and total + num_bytes > self._capacity.max_bytes
        ):
            found = oldest.fetchone() if self._capacity.evicts else None
            if found is None:
                limit = "max_sessions" if num_sessions >= self._capacity.max_sessions else "max_session_bytes"
                raise Overloaded(f"{num_live} sessions are live already", limit=limit, retry_seconds=10.0)
            if found[1] not in self._held:
                victims.append(found[:3])
                num_sessions, total = num_sessions - 1, total - found[3]
        return victims

    def _let_go(self, session_id: str) -> None:
        self._held[session_id] -= 1
        if self._held[session_id] <= 0:
            del self._held[session_id]

    async def _write(self, work: Callable[[sqlite3.Connection], Result], then: Callable[[Result], None]) -> Result:
        if self._writer is None:
            raise StoreUnavailable("the session store is closed")
        return await self._writer.write(work, then)

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._reading is None or self._reader is None:
            raise StoreUnavailable("the session store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, work, self._reader)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the session store cannot read: {error}") from error

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _find(reader: sqlite3.Connection, session_id: str) -> Row | Ending | None:
    found = reader.execute(f"SELECT {_ROW} FROM sessions WHERE id = ?", (session_id,)).fetchone()
    if found is not None:
        return Row(*found)
    ended = reader.execute("SELECT id, owner, reason, at FROM endings WHERE id = ?", (session_id,)).fetchone()
    return Ending(ended[0], ended[1], EndReason(ended[2]), ended[3]) if ended is not None else None


def _find_due(reader: sqlite3.Connection, now: float) -> list[Row]:
    query = f"SELECT {_ROW} FROM sessions WHERE check_at <= ? ORDER BY check_at LIMIT ?"
    return [Row(*row) for row in reader.execute(query, (now, _MAX_DUE))]


def _load(reader: sqlite3.Connection, session_id: str) -> Held | Ending | None:
    """Row and parts of the same moment."""
    reader.execute("BEGIN")
    try:
        row = _find(reader, session_id)
        if not isinstance(row, Row):
            return row
        query = "SELECT name, content FROM parts WHERE session = (SELECT key FROM sessions WHERE id = ?)"
        return Held(row, dict(reader.execute(query, (session_id,))))
    finally:
        reader.execute("COMMIT")


def _insert(connection: sqlite3.Connection, row: Row, parts: Parts, num_bytes: int) -> None:
    values: tuple[Any, ...] = (*_fields(row), row.expires_at, num_bytes)
    query = f"INSERT INTO sessions ({_ROW}, check_at, num_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    key = connection.execute(query, values).lastrowid
    connection.executemany("INSERT INTO parts VALUES (?, ?, ?)", ((key, *part) for part in parts.items()))
    connection.execute("DELETE FROM endings WHERE id = ?", (row.id,))


def _apply(connection: sqlite3.Connection, old: Row, change: Change, num_bytes: int) -> None:
    new = change.row
    query = (
        "UPDATE sessions SET revision = ?, position = ?, updated_at = ?, expires_at = ?, num_bytes = ?"
        " WHERE id = ? AND incarnation = ? AND revision = ? RETURNING key"
    )
    values = (new.revision, new.position, new.updated_at, new.expires_at, num_bytes)
    found = connection.execute(query, (*values, old.id, old.incarnation, old.revision)).fetchall()
    if not found:
        raise SessionMoved(f"session {old.id} was changed while the turn ran")
    ((key,),) = found
    connection.executemany("DELETE FROM parts WHERE session = ? AND name = ?", ((key, name) for name in change.drop))
    connection.executemany(
        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", ((key, *part) for part in change.put.items())
    )


def _end(connection: sqlite3.Connection, found: tuple[int, str, str], reason: EndReason, now: float) -> Ending:
    key, session_id, owner = found
    connection.execute("DELETE FROM sessions WHERE key = ?", (key,))
    connection.execute("DELETE FROM parts WHERE session = ?", (key,))
    query = "INSERT OR REPLACE INTO endings (id, owner, reason, at) VALUES (?, ?, ?, ?)"
    number = connection.execute(query, (session_id, owner, reason.value, now)).lastrowid or 0
    connection.execute("DELETE FROM endings WHERE number <= ?", (number - MAX_ENDINGS,))
    return Ending(session_id, owner, reason, now)


def _fields(row: Row) -> tuple[Any, ...]:
    moments = (row.created_at, row.updated_at, row.expires_at)
    return (row.id, row.owner, row.incarnation, row.revision, row.position, *moments)


def _weigh(parts: Parts) -> int:
    return _ROW_BYTES + sum(len(part) for part in parts.values())
