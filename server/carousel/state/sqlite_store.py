"""Sessions in one SQLite file that only this server uses: durable at each turn, more than memory holds.

Parts are rows, so a turn writes its own snapshot and not the session's past. Recently written parts are cached in
memory.
"""

import asyncio
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from carousel.errors import Overloaded, StoreInvalid, StoreUnavailable
from carousel.state import sqlite_rows as rows
from carousel.state.group_commit import GroupCommit
from carousel.state.recent import Recent
from carousel.state.sqlite_books import Books, Journal
from carousel.state.sqlite_changes import Changes, Made, Met, Swept, weigh
from carousel.state.sqlite_file import lock, open_file
from carousel.state.sqlite_holds import Holds, Key
from carousel.state.store import (
    DEED_SECONDS,
    Birth,
    Capacity,
    Change,
    Deed,
    Durability,
    Ending,
    EndReason,
    Held,
    Lifetimes,
    Row,
)

Result = TypeVar("Result")
_CACHE_BYTES = 256 * 2**20
_MAX_PART = 128  # sessions that one transaction ends and reports together


@dataclass(frozen=True, slots=True)
class _Open:
    """What exists between `start` and `close`."""

    writer: GroupCommit
    reader: sqlite3.Connection
    reading: ThreadPoolExecutor
    holds: Holds
    books: Books
    changes: Changes
    numbers: Iterator[int]  # of entries of the turn log
    on_ending: Callable[[Ending], None]


class SqliteStore:
    """A SessionStore. Of an owner's sessions that no turn holds, the longest unchanged is evicted first.

    The epoch of a take identifies its hold: a release frees that hold, however often it is called.
    """

    durability = Durability.EACH_TURN
    is_immediate = False
    is_shared = False

    def __init__(
        self,
        path: Path,
        capacity: Capacity,
        lifetimes: Lifetimes,
        cache_bytes: int = _CACHE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self._path = path
        self._capacity = capacity
        self._lifetimes = lifetimes
        self._recent: Recent[Held] = Recent(cache_bytes)
        self._lock: int | None = None
        self._open: _Open | None = None

    def __repr__(self) -> str:
        state = "closed" if self._open is None else f"open, {self._open.holds}, {self._open.books}"
        return f"SqliteStore({self._path}, {state}, {self._recent})"

    async def start(self, on_ending: Callable[[Ending], None]) -> None:
        self._lock = await asyncio.to_thread(lock, self._path)
        journal, holds = Journal(), Holds()
        books = Books(self._capacity, journal)
        try:
            writing, reader, last = await asyncio.to_thread(_open_file, self._path, books)
        except BaseException:
            self._unlock()
            raise
        writer = GroupCommit(writing, journal.settle, self._recent.clear)
        reading = ThreadPoolExecutor(1, "store-reader")
        changes = Changes(holds, books, self._lifetimes, self.clock)
        self._open = _Open(writer, reader, reading, holds, books, changes, itertools.count(last + 1), on_ending)

    async def close(self) -> None:
        closing, self._open = self._open, None  # from now on calls are refused
        if closing is not None:
            await asyncio.to_thread(closing.reading.shutdown)
            closing.reader.close()
            await closing.writer.close()
        self._recent.clear()
        self._unlock()

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        store = self._opened()
        copies = [Birth(one.id, one.owner, one.incarnation, one.position, dict(one.parts)) for one in births]
        if copies and store.books.lacks(copies[0].owner, len(copies), sum(weigh(one.parts) for one in copies)):
            await self._sweep(store, _MAX_PART)  # due sessions end before live ones are evicted

        def then(made: Made) -> None:
            self._report(store, made.endings)
            for row, birth in zip(made.rows, copies, strict=True):
                self._recent.put((row.owner, row.id), Held(row, birth.parts), weigh(birth.parts))

        made = await store.writer.write(lambda writing: store.changes.create(writing, copies, deed), then)
        return made.rows

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        since = self.clock() - DEED_SECONDS
        return await self._read(lambda reader: rows.find_deed(reader, owner, request_id, since))

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        store, key = self._opened(), (owner, session_id)
        held = self._recent.get(key)
        found = held.row if held is not None else await self._read(lambda reader: rows.find(reader, *key))
        if not isinstance(found, Row) or found.expires_at > self.clock() or store.holds.is_held(key):
            return found
        met = await self._meet(store, key)
        return met.row if isinstance(met, Held) else met

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        store, key = self._opened(), (owner, session_id)
        number = store.holds.add(key)  # before any read: the session does not end, or this hold learns of it
        is_taken = False
        try:
            found = await self._find_to_take(store, key, number)
            if isinstance(found, Held):
                await self._reserve(store, number, owner, room)
                is_taken = True
                return Held(found.row, found.parts, number)
            return found
        finally:
            if not is_taken:
                store.holds.drop(key, number)

    async def reclaim(self, owner: str, session_id: str) -> Held | Ending | None:
        """Works as `take`, also for a due session. Only for a start, while nothing else uses the store."""
        store, key = self._opened(), (owner, session_id)
        found = await self._read(lambda reader: rows.load_alone(reader, *key))
        return Held(found.row, found.parts, store.holds.add(key)) if isinstance(found, Held) else found

    async def commit(self, held: Held, change: Change) -> Row:
        return await self.write(held, change, self.next_row(held.row, change))

    def next_row(self, row: Row, change: Change) -> Row:
        """Returns the row after the change, by this store's clock and lifetimes."""
        return self._opened().changes.next_row(row, change)

    async def write(self, held: Held, change: Change, row: Row) -> Row:
        """Works as `commit`; `row` is the session's new row, possibly several changes later."""
        store = self._opened()
        dropped = set(change.drop)
        parts = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        copy = Change(change.position, dict(change.put), change.drop)
        num_bytes = weigh(parts)

        def then(_: None) -> None:
            self._recent.put((row.owner, row.id), Held(row, parts), num_bytes)
            store.books.give_back(held.epoch)

        await store.writer.write(lambda writing: store.changes.apply(writing, held, row, copy, num_bytes), then)
        return row

    async def append(self, entry: bytes, then: Callable[[int], None]) -> None:
        """Appends to the turn log. Once the entry is on disk, `then` is called with its number, which is higher than
        any since the start. The log is only read at the next start."""
        store = self._opened()
        number = next(store.numbers)
        await store.writer.write(lambda writing: rows.insert_entry(writing, number, entry), lambda _: then(number))

    async def read_log(self) -> list[bytes]:
        """Returns the entries that were appended but not trimmed before this start, in order."""
        return await self._read(rows.find_entries)

    async def trim(self, number: int) -> None:
        """Deletes the entries up to this one."""
        await self._opened().writer.write(lambda writing: rows.delete_entries(writing, number), _ignore)

    async def release(self, held: Held) -> None:
        self.let_go(held.row, held.epoch)

    def let_go(self, row: Row, epoch: int) -> None:
        """Releases the hold at once."""
        if self._open is not None:
            self._open.holds.drop((row.owner, row.id), epoch)
            self._open.books.give_back(epoch)

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        store = self._opened()
        ended = await store.writer.write(
            lambda writing: store.changes.end(writing, row, reason, deed),
            lambda ended: self._report(store, [ended] if ended is not None else []),
        )
        return ended is not None

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        store = self._opened()
        while True:
            found = await self._read(lambda reader: rows.find_owned(reader, owner, after, count))
            now = self.clock()
            due = [row for row in found if row.expires_at <= now and not store.holds.is_held((owner, row.id))]
            if not due:
                return found
            await asyncio.gather(*(self._meet(store, (owner, row.id)) for row in due[:_MAX_PART]))

    async def sweep(self, count: int) -> int:
        return await self._sweep(self._opened(), count)

    async def num_live(self) -> int:
        return self._opened().books.sessions.total

    async def num_bytes(self) -> int:
        return self._opened().books.num_bytes.total

    def durable_position(self, row: Row) -> int:
        return row.position

    async def _sweep(self, store: _Open, count: int) -> int:
        num_ended, is_more = 0, True
        while is_more and num_ended < count:
            part = min(_MAX_PART, count - num_ended)
            swept: Swept = await store.writer.write(
                partial(store.changes.sweep, count=part), lambda swept: self._report(store, swept.endings)
            )
            num_ended, is_more = num_ended + len(swept.endings), swept.is_more
        return num_ended

    async def _find_to_take(self, store: _Open, key: Key, number: int) -> Held | Ending | None:
        if not store.holds.is_asking(key, number):
            found: Held | Ending | None = self._recent.get(key)
            if found is None:
                found = await self._read(lambda reader: rows.load_alone(reader, *key))
            if not isinstance(found, Held) or found.row.expires_at > self.clock():
                return found
            store.holds.ask(key, number)
        return await self._meet(store, key, number)

    async def _meet(self, store: _Open, key: Key, number: int = 0) -> Held | Ending | None:
        """Lets the writer check the session, which ends it when it is due."""

        def then(met: Met) -> None:
            self._report(store, [met.ended] if met.ended is not None else [])

        met = await store.writer.write(lambda writing: store.changes.meet(writing, key, number), then)
        return met.found

    async def _reserve(self, store: _Open, number: int, owner: str, room: int) -> None:
        """Raises Overloaded."""
        if store.books.reserve(number, owner, room) is None:
            return
        await self._sweep(store, _MAX_PART)
        if limit := store.books.reserve(number, owner, room):
            raise Overloaded(f"there is no room for {room} more bytes", limit=limit, retry_seconds=10.0)

    def _report(self, store: _Open, endings: Sequence[Ending]) -> None:
        """The endings are on disk: drop the sessions from the cache, allow takes again, and report the endings."""
        for ending in endings:
            self._recent.drop((ending.owner, ending.id))
            store.holds.finish_ending((ending.owner, ending.id))
        for ending in endings:
            if ending.reason is not EndReason.UNDONE:
                store.on_ending(ending)

    def _opened(self) -> _Open:
        if self._open is None:
            raise StoreUnavailable("the session store is closed")
        return self._open

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        store = self._opened()
        try:
            return await asyncio.get_running_loop().run_in_executor(store.reading, work, store.reader)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the session store cannot read: {error}") from error

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _ignore(_: None) -> None:
    """Does nothing."""


def _open_file(path: Path, books: Books) -> tuple[sqlite3.Connection, sqlite3.Connection, int]:
    """Returns connections that write and read, and the last number in the turn log."""
    writing, reader = open_file(path)
    try:
        books.load(reader)
        return writing, reader, rows.find_last_entry(reader)
    except sqlite3.Error as error:
        writing.close()
        reader.close()
        raise StoreInvalid(f"{path} is damaged: {error}") from error
