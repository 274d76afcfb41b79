"""The totals of each owner in the SQLite store's file, kept in memory, and how to undo a failed transaction."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial

from carousel.shares import Shares
from carousel.state.store import Capacity

ROW_BYTES = 400  # a row and its index entries
_OF_BYTES = ("max_session_bytes_per_owner", "max_session_bytes")


class Journal:
    """How to undo a transaction's effects outside the file. Only for the writer's thread."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def note(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def mark(self) -> int:
        return len(self._undo)

    def roll_back(self, mark: int = 0) -> None:
        while len(self._undo) > mark:
            self._undo.pop()()

    def settle(self, is_committed: bool) -> None:
        """The transaction has ended."""
        if not is_committed:
            self.roll_back()
        self._undo.clear()


class Books:
    """Counts by owner. Both threads use `sessions` and `num_bytes`; only the writer's thread uses the others."""

    def __init__(self, capacity: Capacity, journal: Journal) -> None:
        self.capacity = capacity
        self.journal = journal
        self.sessions, self.num_bytes = Shares(), Shares()
        self.endings, self.deeds = Shares(), Shares()
        self._reserved: dict[int, tuple[str, int]] = {}  # by number of the hold
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return (
            f"Books({self.sessions.total} sessions, {self.num_bytes.total} bytes, {len(self._reserved)} reservations)"
        )

    def load(self, connection: sqlite3.Connection) -> None:
        """Reads the counts from the file."""
        rows = connection.execute("SELECT owner, count(*), sum(num_bytes) FROM sessions GROUP BY owner")
        for owner, count, num_bytes in rows:
            if num_bytes < 0:
                raise sqlite3.DataError(f"sessions of {num_bytes} bytes")
            self.sessions.change(owner, count)
            self.num_bytes.change(owner, num_bytes)
        for shares, table in ((self.endings, "endings"), (self.deeds, "deeds")):
            for owner, count in connection.execute(f"SELECT owner, count(*) FROM {table} GROUP BY owner"):
                shares.change(owner, count)

    def change(self, shares: Shares, owner: str, amount: int) -> None:
        """Makes a change within a transaction, which is undone if that fails."""
        self._change(shares, owner, amount)
        self.journal.note(partial(self._change, shares, owner, -amount))

    def touch(self, owner: str) -> None:
        """The owner changes a session: among owners with equal use, another one is evicted from first."""
        with self._lock:
            self.sessions.touch(owner)
            self.num_bytes.touch(owner)

    def lacks(self, owner: str, sessions: int, num_bytes: int) -> str | None:
        """Returns the limit that this much more would exceed, the owner's own first."""
        with self._lock:
            return next(self._passed(owner, sessions, num_bytes), None)

    def reserve(self, number: int, owner: str, num_bytes: int) -> str | None:
        """Reserves room for the session with this hold. Returns the limit that prevents it; then nothing is reserved.
        Where sessions are evicted, room is made afterwards."""
        if self.capacity.evicts or num_bytes <= 0:
            return None
        with self._lock:
            for limit in self._passed(owner, 0, num_bytes):
                if limit in _OF_BYTES:
                    return limit
            self._reserved[number] = (owner, num_bytes)
            self.num_bytes.change(owner, num_bytes)
            return None

    def excess(self) -> list[tuple[str, str]]:
        """Returns the exceeded limits, each with an owner who uses most, and those of owners with limits of their own:
        turns exceed them where room is made afterwards, and limits change."""
        with self._lock:
            found = [*self._exceeded(self.sessions, of_bytes=False), *self._exceeded(self.num_bytes, of_bytes=True)]
        return list(dict.fromkeys(found))

    def _exceeded(self, shares: Shares, *, of_bytes: bool) -> Iterator[tuple[str, str]]:
        own, largest = self.capacity.owner_limits.own, shares.largest()
        largest_of_others = shares.largest(accept=lambda owner: owner not in own)
        for owner in [one for one in (largest, largest_of_others, *own) if one is not None]:
            for limit in self._passed(owner, 0, 0):
                if (limit in _OF_BYTES) == of_bytes and (owner == largest or limit.endswith("per_owner")):
                    yield limit, owner

    def above_share(self, limit: str, owner: str) -> Iterator[str]:
        """Yields the owners whose sessions make room at the limit, in this order: at the owner's own limit, the owner;
        otherwise owners above their share, the largest user first, and the owner itself last, or first among equals."""
        if limit.endswith("per_owner"):
            yield owner
            return
        of_bytes = limit == "max_session_bytes"
        shares = self.num_bytes if of_bytes else self.sessions
        most = self.capacity.max_bytes if of_bytes else self.capacity.max_sessions
        with self._lock:
            share, largest = shares.share(most, owner), shares.largest()
            if largest is None or shares.used(largest) in (shares.used(owner), 0):
                largest = owner
        if shares.used(largest) > share:
            yield largest
        with self._lock:  # rarely: every session of the largest owner is in use
            others = shares.above(share)
        yield from (one for one in others if one not in (largest, owner))
        yield owner

    def give_back(self, number: int) -> None:
        """Releases the reservation, if any."""
        with self._lock:
            owner, num_bytes = self._reserved.pop(number, ("", 0))
            self.num_bytes.change(owner, -num_bytes)

    def _change(self, shares: Shares, owner: str, amount: int) -> None:
        with self._lock:
            shares.change(owner, amount)

    def _passed(self, owner: str, sessions: int, num_bytes: int) -> Iterator[str]:
        of_all, of_one = self.capacity, self.capacity.owner_limits.of(owner)
        for limit, most, used in (
            ("max_sessions_per_owner", of_one.max_sessions, self.sessions.used(owner) + sessions),
            ("max_session_bytes_per_owner", of_one.max_bytes, self.num_bytes.used(owner) + num_bytes),
            ("max_sessions", of_all.max_sessions, self.sessions.total + sessions),
            ("max_session_bytes", of_all.max_bytes, self.num_bytes.total + num_bytes),
        ):
            if most is not None and used > most:
                yield limit
