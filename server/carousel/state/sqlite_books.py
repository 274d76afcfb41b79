"""What each owner has in the SQLite store's file, kept in memory, and what a failed transaction takes back."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial

from carousel.shares import Shares
from carousel.state.store import Capacity

ROW_BYTES = 400  # a row and its places in the indices
_OF_BYTES = ("max_session_bytes_per_owner", "max_session_bytes")


class Journal:
    """How to undo what a transaction did outside the file. For the writer's thread alone."""

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
    """Counts by owner. `sessions` and `num_bytes` are used by both threads, the others by the writer's alone."""

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
        """From the file."""
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
        """Within a transaction; undone if that fails."""
        self._change(shares, owner, amount)
        self.journal.note(partial(self._change, shares, owner, -amount))

    def touch(self, owner: str) -> None:
        """He changes a session: of owners that have as much, another one makes room."""
        with self._lock:
            self.sessions.touch(owner)
            self.num_bytes.touch(owner)

    def lacks(self, owner: str, sessions: int, num_bytes: int) -> str | None:
        """The limit that so much more would pass, the owner's own first."""
        with self._lock:
            return next(self._passed(owner, sessions, num_bytes), None)

    def reserve(self, number: int, owner: str, num_bytes: int) -> str | None:
        """Room for the session with this hold; the limit that stands in the way, and then nothing is reserved. Where
        sessions are evicted, room is made afterwards."""
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
        """Limits that are passed, each with an owner who uses most: turns pass them where room is made afterwards."""
        with self._lock:
            owners = {False: self.sessions.largest(), True: self.num_bytes.largest()}
            return [
                (limit, owner)
                for of_bytes, owner in owners.items()
                if owner is not None
                for limit in self._passed(owner, 0, 0)
                if (limit in _OF_BYTES) == of_bytes
            ]

    def above_share(self, limit: str, owner: str) -> Iterator[str]:
        """Whose sessions make room for the owner's at the limit, in this order: his own where the limit is his own;
        else those of who uses more than his share, the largest user first; his own last, or first among equals."""
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
        with self._lock:  # hardly ever: everything of the largest is in use
            others = shares.above(share)
        yield from (one for one in others if one not in (largest, owner))
        yield owner

    def give_back(self, number: int) -> None:
        """The room that is reserved, if any."""
        with self._lock:
            owner, num_bytes = self._reserved.pop(number, ("", 0))
            self.num_bytes.change(owner, -num_bytes)

    def _change(self, shares: Shares, owner: str, amount: int) -> None:
        with self._lock:
            shares.change(owner, amount)

    def _passed(self, owner: str, sessions: int, num_bytes: int) -> Iterator[str]:
        of_all, of_one = self.capacity, self.capacity.owner_limits
        for limit, most, used in (
            ("max_sessions_per_owner", of_one.max_sessions, self.sessions.used(owner) + sessions),
            ("max_session_bytes_per_owner", of_one.max_bytes, self.num_bytes.used(owner) + num_bytes),
            ("max_sessions", of_all.max_sessions, self.sessions.total + sessions),
            ("max_session_bytes", of_all.max_bytes, self.num_bytes.total + num_bytes),
        ):
            if most is not None and used > most:
                yield limit
