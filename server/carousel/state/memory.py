"""Sessions in this process's memory: the reference implementation, bounded by count and bytes."""

import bisect
import collections
import heapq
import itertools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carousel.errors import Overloaded, SessionExists, SessionMoved
from carousel.state.memory_file import read_sessions, write_sessions
from carousel.state.store import Change, Durability, Ending, EndReason, Held, Parts, Row

MAX_ENDINGS = 10_000
_ROW_BYTES = 700  # a row, its keys and its places in the indices, measured


# A row's values but its id, then key, part, key, part ...: flat, for a dictionary alone would cost 184 bytes a session,
# and of plain values alone, for the collector forgets such a tuple: else it would walk a million rows, for most of a
# second in which nothing else runs.
_Entry = tuple[Any, ...]
_FIELDS = ("owner", "incarnation", "revision", "position", "created_at", "updated_at", "expires_at")
_NUM_FIELDS = len(_FIELDS)
_OWNER, _INCARNATION, _REVISION, _CREATED_AT, _EXPIRES_AT = (
    _FIELDS.index(name) for name in ("owner", "incarnation", "revision", "created_at", "expires_at")
)
_values_of = operator.attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much may live at once, and whether the least recently used make room for new ones."""

    max_sessions: int
    max_bytes: int
    evicts: bool


class MemoryStore:
    """A SessionStore that ends with the process; with a file, sessions sleep there from a drain to the next start."""

    durability = Durability.NONE
    is_immediate = True

    def __init__(self, capacity: Capacity, file: Path | None = None) -> None:
        self._capacity = capacity
        self._file = file
        self._sessions: collections.OrderedDict[str, _Entry] = collections.OrderedDict()  # by last use
        self._owned: dict[str, list[tuple[float, str]]] = {}  # owner -> (created_at, id), sorted
        self._expiries: list[tuple[float, str, int]] = []  # a heap of (expires_at, id, incarnation), some out of date
        self._endings: collections.OrderedDict[str, Ending] = collections.OrderedDict()
        self._num_bytes = 0

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._sessions)} of {self._capacity.max_sessions} sessions, {self._num_bytes} bytes)"

    async def start(self) -> None:
        if self._file is None:
            return
        for row, parts in read_sessions(self._file):
            self._add(row, parts)
        self._file.unlink(missing_ok=True)

    async def close(self) -> None:
        if self._file is not None:
            write_sessions(self._file, ((_row_of(*one), _parts_of(one[1])) for one in self._sessions.items()))

    async def create(self, row: Row, parts: Parts) -> list[Ending]:
        if row.id in self._sessions:
            raise SessionExists(f"session {row.id} exists already")
        evicted = self._make_room(_weigh(parts), row.created_at)
        self._add(row, parts)
        self._endings.pop(row.id, None)
        return evicted

    async def read(self, session_id: str) -> Row | Ending | None:
        found = self._sessions.get(session_id)
        return _row_of(session_id, found) if found is not None else self._endings.get(session_id)

    async def take(self, session_id: str) -> Held | Ending | None:
        found = self._sessions.get(session_id)
        if found is None:
            return self._endings.get(session_id)
        self._sessions.move_to_end(session_id)
        return Held(_row_of(session_id, found), _parts_of(found))

    async def commit(self, held: Held, change: Change) -> None:
        found = self._sessions.get(held.row.id)
        wanted = (held.row.incarnation, held.row.revision)
        if found is None or (found[_INCARNATION], found[_REVISION]) != wanted:
            raise SessionMoved(f"session {held.row.id} was changed while the turn ran")
        parts = _parts_of(found)
        for key in (*change.drop, *change.put):
            self._num_bytes -= len(parts.pop(key, b""))
        for key, part in change.put.items():
            self._num_bytes += len(part)
            parts[key] = part
        self._put(change.row, parts)

    async def release(self, held: Held) -> None:
        pass

    async def end(self, row: Row, reason: EndReason, now: float) -> bool:
        found = self._sessions.get(row.id)
        if found is None or found[_INCARNATION] != row.incarnation:
            return False
        self._end(row.id, reason, now)
        return True

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        keys = self._owned.get(owner, [])
        first = bisect.bisect_right(keys, after)
        return [_row_of(one, self._sessions[one]) for _, one in keys[first : first + count]]

    async def due(self, now: float) -> list[Row]:
        rows = []
        while self._expiries and self._expiries[0][0] <= now:
            _, session_id, incarnation = heapq.heappop(self._expiries)
            found = self._sessions.get(session_id)
            if found is None or found[_INCARNATION] != incarnation:
                continue
            if found[_EXPIRES_AT] <= now:
                rows.append(_row_of(session_id, found))
            else:  # it was used since; its place in the heap moves now, not at every use
                heapq.heappush(self._expiries, (found[_EXPIRES_AT], session_id, incarnation))
        return rows

    async def excess(self) -> list[Row]:
        rows, over = [], self._num_bytes - self._capacity.max_bytes
        for session_id, entry in self._sessions.items():
            if over <= 0 or not self._capacity.evicts:
                break
            rows.append(_row_of(session_id, entry))
            over -= _weigh(_parts_of(entry))
        return rows

    async def num_live(self) -> int:
        return len(self._sessions)

    def durable_position(self, row: Row) -> int:
        return 0

    def _add(self, row: Row, parts: Parts) -> None:
        heapq.heappush(self._expiries, (row.expires_at, row.id, row.incarnation))
        bisect.insort(self._owned.setdefault(row.owner, []), (row.created_at, row.id))
        self._put(row, parts)
        self._num_bytes += _weigh(parts)

    def _put(self, row: Row, parts: Parts) -> None:
        self._sessions[row.id] = (*_values_of(row), *itertools.chain.from_iterable(parts.items()))
        self._sessions.move_to_end(row.id)

    def _make_room(self, num_bytes: int, now: float) -> list[Ending]:
        evicted = []
        while len(self._sessions) >= self._capacity.max_sessions or (
            self._sessions and self._num_bytes + num_bytes > self._capacity.max_bytes
        ):
            if not self._capacity.evicts:
                limit = "max_sessions" if len(self._sessions) >= self._capacity.max_sessions else "max_session_bytes"
                raise Overloaded(f"{len(self._sessions)} sessions are live already", limit=limit, retry_seconds=10.0)
            evicted.append(self._end(next(iter(self._sessions)), EndReason.EVICTED, now))
        return evicted

    def _end(self, session_id: str, reason: EndReason, now: float) -> Ending:
        entry = self._sessions.pop(session_id)
        owner: str = entry[_OWNER]
        self._num_bytes -= _weigh(_parts_of(entry))
        keys = self._owned[owner]
        del keys[bisect.bisect_left(keys, (entry[_CREATED_AT], session_id))]
        if not keys:
            del self._owned[owner]
        self._endings[session_id] = ending = Ending(session_id, owner, reason, now)
        for stale in list(itertools.islice(self._endings, max(0, len(self._endings) - MAX_ENDINGS))):
            del self._endings[stale]
        return ending


def _row_of(session_id: str, entry: _Entry) -> Row:
    return Row(session_id, *entry[:_NUM_FIELDS])


def _parts_of(entry: _Entry) -> dict[str, bytes]:
    return dict(zip(entry[_NUM_FIELDS::2], entry[_NUM_FIELDS + 1 :: 2], strict=True))


def _weigh(parts: Parts) -> int:
    return _ROW_BYTES + sum(len(part) for part in parts.values())
