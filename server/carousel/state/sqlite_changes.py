"""The SQLite store's changes to its file, within transactions of the writer's thread.

This module decides which sessions are due and which make room, from the file's content at that moment and the holds.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from carousel.errors import Overloaded, SessionExists, SessionMoved
from carousel.records import record
from carousel.shares import Shares
from carousel.state import sqlite_rows as rows
from carousel.state.sqlite_books import ROW_BYTES, Books
from carousel.state.sqlite_holds import Holds, Key
from carousel.state.sqlite_rows import Found
from carousel.state.store import (
    DEED_SECONDS,
    MAX_DEEDS,
    MAX_DEEDS_PER_OWNER,
    MAX_ENDINGS,
    MAX_ENDINGS_PER_OWNER,
    Birth,
    Change,
    Deed,
    Ending,
    EndReason,
    Held,
    Lifetimes,
    Parts,
    Repeated,
    Row,
)

_SWEEP_SECONDS = 0.02  # how long turns may wait for one part of a sweep
_NUM_PRUNED = 8  # deeds or endings forgotten with each new one, so that their number falls


@record(frozen=True, slots=True)
class Made:
    rows: list[Row]
    endings: list[Ending]  # of sessions that made room


@record(frozen=True, slots=True)
class Met:
    """The result of a take or a read, and the ending that it caused."""

    found: Held | Ending | None
    ended: Ending | None


@record(frozen=True, slots=True)
class Swept:
    endings: list[Ending]
    is_more: bool


class Changes:
    """Each method is called within a transaction. Its effects on holds and books are undone if the transaction
    fails."""

    def __init__(self, holds: Holds, books: Books, lifetimes: Lifetimes, clock: Callable[[], float]) -> None:
        self._holds = holds
        self._books = books
        self._lifetimes = lifetimes
        self._clock = clock

    def next_row(self, row: Row, change: Change) -> Row:
        """Returns the row after the change."""
        at, created_at = self._clock() - change.age_seconds, row.created_at
        expires_at = self._expiry(created_at, at)
        return Row(row.id, row.owner, row.incarnation, row.revision + 1, change.position, created_at, at, expires_at)

    def create(self, connection: sqlite3.Connection, births: Sequence[Birth], deed: Deed | None) -> Made:
        now = self._clock()
        self._check_new(connection, deed, now)
        with self._atomic(connection):
            endings = [ended for birth in births if (ended := self._clear_place(connection, birth, now))]
            if births:
                num_bytes = sum(weigh(birth.parts) for birth in births)
                endings += self._make_room(connection, births[0].owner, len(births), num_bytes, now)
            made = [self._insert(connection, birth, now) for birth in births]
            self._record(connection, deed, now)
        return Made(made, endings)

    def apply(self, connection: sqlite3.Connection, held: Held, row: Row, change: Change, num_bytes: int) -> None:
        key = rows.update_session(connection, held.row, row, num_bytes)
        if key is None:
            raise SessionMoved(f"session {row.id} was changed while the turn ran")
        rows.change_parts(connection, key, change.put, change.drop)
        self._books.change(self._books.num_bytes, row.owner, num_bytes - weigh(held.parts))
        self._books.touch(row.owner)

    def end(self, connection: sqlite3.Connection, row: Row, reason: EndReason, deed: Deed | None) -> Ending | None:
        now = self._clock()
        self._check_new(connection, deed, now)
        found = rows.find_session(connection, row.owner, row.id)
        if found is None or found.row.incarnation != row.incarnation:
            return None
        self._begin_ending((row.owner, row.id), even_held=True)
        self._record(connection, deed, now)
        return self._end(connection, found, reason, now)

    def meet(self, connection: sqlite3.Connection, key: Key, number: int = 0) -> Met:
        """For a take that asks, by its number, or for a read: returns the session, or how it ended if it was due."""
        found = rows.find_session(connection, *key)
        ended = None if found is None else self._end_if_due(connection, found, self._clock())
        self._holds.grant(key, number)
        return Met(rows.load(connection, *key), ended)

    def sweep(self, connection: sqlite3.Connection, count: int) -> Swept:
        """Runs one part of a sweep: as much as is possible while turns wait."""
        now, until = self._clock(), time.monotonic() + _SWEEP_SECONDS
        endings: list[Ending] = []
        used_since: list[Found] = []
        num_looked = count + len(self._holds)  # so that held ones do not hide the others
        due = rows.find_due(connection, now, num_looked)
        is_more = len(due) == num_looked
        for found in due:
            if found.row.expires_at > now:
                used_since.append(found)
            elif ended := self._end_if_due(connection, found, now):
                endings.append(ended)
            if len(endings) >= count or time.monotonic() > until:
                is_more = True
                break
        rows.postpone(connection, used_since)
        while not is_more and (ended := self._end_excess(connection, now)):
            endings.append(ended)
            is_more = len(endings) >= count or time.monotonic() > until
        return Swept(endings, is_more)

    def _clear_place(self, connection: sqlite3.Connection, birth: Birth, now: float) -> Ending | None:
        """Raises SessionExists if a session lives under the id; a due one ends now."""
        found = rows.find_session(connection, birth.owner, birth.id)
        if found is None:
            return None
        ended = self._end_if_due(connection, found, now)
        if ended is None:
            raise SessionExists(f"session {birth.id} exists already")
        return ended

    def _make_room(
        self, connection: sqlite3.Connection, owner: str, sessions: int, num_bytes: int, now: float
    ) -> list[Ending]:
        endings = []
        while limit := self._books.lacks(owner, sessions, num_bytes):
            victim = self._find_victim(connection, limit, owner) if self._books.capacity.evicts else None
            if victim is None:
                num_live = self._books.sessions.total
                raise Overloaded(f"{num_live} sessions are live already", limit=limit, retry_seconds=10.0)
            endings.append(self._end(connection, victim, EndReason.EVICTED, now))
        return endings

    def _end_excess(self, connection: sqlite3.Connection, now: float) -> Ending | None:
        for limit, owner in self._books.excess() if self._books.capacity.evicts else ():
            if victim := self._find_victim(connection, limit, owner):
                return self._end(connection, victim, EndReason.EVICTED, now)
        return None

    def _find_victim(self, connection: sqlite3.Connection, limit: str, owner: str) -> Found | None:
        """Returns a session to evict: it is not held, and no turn can take it from now on."""
        for one in self._books.above_share(limit, owner):
            for found in rows.find_unused(connection, one):
                if self._begin_ending((one, found.row.id)):
                    return found
        return None

    def _end_if_due(self, connection: sqlite3.Connection, found: Found, now: float) -> Ending | None:
        row = found.row
        if row.expires_at > now or not self._begin_ending((row.owner, row.id)):
            return None
        is_old = row.expires_at >= row.created_at + self._lifetimes.absolute
        return self._end(connection, found, EndReason.AGE if is_old else EndReason.IDLE, now)

    def _begin_ending(self, key: Key, *, even_held: bool = False) -> bool:
        if not self._holds.begin_ending(key, even_held=even_held):
            return False
        self._books.journal.note(partial(self._holds.finish_ending, key))
        return True

    def _end(self, connection: sqlite3.Connection, found: Found, reason: EndReason, now: float) -> Ending:
        row, books = found.row, self._books
        rows.delete_session(connection, found.key)
        books.change(books.sessions, row.owner, -1)
        books.change(books.num_bytes, row.owner, -found.num_bytes)
        ending = Ending(row.id, row.owner, reason, now, row.incarnation)
        if reason is not EndReason.UNDONE:
            rows.insert_ending(connection, ending)
            books.change(books.endings, row.owner, 1)
            self._bound(connection, "endings", books.endings, row.owner, MAX_ENDINGS_PER_OWNER, MAX_ENDINGS)
        return ending

    def _insert(self, connection: sqlite3.Connection, birth: Birth, now: float) -> Row:
        row = Row(birth.id, birth.owner, birth.incarnation, 0, birth.position, now, now, self._expiry(now, now))
        num_bytes, books = weigh(birth.parts), self._books
        try:
            rows.insert_session(connection, row, birth.parts, num_bytes)
        except sqlite3.IntegrityError as error:  # two births under one id
            raise SessionExists(f"session {birth.id} exists already") from error
        books.change(books.sessions, row.owner, 1)
        books.change(books.num_bytes, row.owner, num_bytes)
        if rows.delete_ending(connection, birth):
            books.change(books.endings, row.owner, -1)
        return row

    def _check_new(self, connection: sqlite3.Connection, deed: Deed | None, now: float) -> None:
        """Raises Repeated."""
        if deed is None:
            return
        known = rows.find_deed(connection, deed.owner, deed.request_id, now - DEED_SECONDS)
        if known is not None:
            raise Repeated(known)

    def _record(self, connection: sqlite3.Connection, deed: Deed | None, now: float) -> None:
        if deed is None:
            return
        deeds = self._books.deeds
        if rows.delete_deed(connection, deed.owner, deed.request_id):
            self._books.change(deeds, deed.owner, -1)
        for owner in rows.delete_deeds_before(connection, now - DEED_SECONDS, _NUM_PRUNED):
            self._books.change(deeds, owner, -1)
        rows.insert_deed(connection, deed, now)
        self._books.change(deeds, deed.owner, 1)
        self._bound(connection, "deeds", deeds, deed.owner, MAX_DEEDS_PER_OWNER, MAX_DEEDS)

    def _bound(
        self, connection: sqlite3.Connection, table: str, shares: Shares, owner: str, of_one: int, of_all: int
    ) -> None:
        """Forgets the oldest beyond the bound: the owner's own, or those of the owner with the most, so that one
        owner's many never push out another's."""
        if (excess := shares.used(owner) - of_one) > 0:
            self._forget(connection, table, shares, owner, excess)
        if (excess := shares.total - of_all) > 0 and (largest := shares.largest()) is not None:
            self._forget(connection, table, shares, largest, min(excess, _NUM_PRUNED))

    def _forget(self, connection: sqlite3.Connection, table: str, shares: Shares, owner: str, count: int) -> None:
        num_gone = rows.delete_oldest(connection, table, count, owner)
        self._books.change(shares, owner, -num_gone)

    def _expiry(self, created_at: float, now: float) -> float:
        return min(created_at + self._lifetimes.absolute, now + self._lifetimes.idle)

    @contextlib.contextmanager
    def _atomic(self, connection: sqlite3.Connection) -> Iterator[None]:
        """A refusal in the middle leaves nothing behind."""
        mark = self._books.journal.mark()
        connection.execute("SAVEPOINT change")
        try:
            yield
        except BaseException:
            if connection.in_transaction:  # a full disk may have ended it
                connection.execute("ROLLBACK TO change")
                connection.execute("RELEASE change")
            self._books.journal.roll_back(mark)
            raise
        connection.execute("RELEASE change")


def weigh(parts: Parts) -> int:
    return ROW_BYTES + sum(len(part) for part in parts.values())
