"""Sessions in this process's memory: the reference implementation, bounded by count and bytes."""

import collections
import itertools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sortedcontainers import SortedList

from carousel.errors import Overloaded, SessionExists, SessionMoved
from carousel.shares import Shares
from carousel.state.memory_file import read_sessions, write_sessions
from carousel.state.remembered import Remembered
from carousel.state.store import (
    DEED_SECONDS,
    MAX_DEEDS_PER_OWNER,
    MAX_ENDINGS,
    MAX_ENDINGS_PER_OWNER,
    Birth,
    Capacity,
    Change,
    Deed,
    Durability,
    Ending,
    EndReason,
    Held,
    Lifetimes,
    Parts,
    Repeated,
    Row,
)

Key = tuple[str, str]  # owner, session id
_MAX_DEEDS = 100_000
_MAX_SWEPT = 256  # that make room for a new one
_RECHECK_SECONDS = 1.0  # for a session that is due and held
_ROW_BYTES = 700  # a row, its keys and its places in the indices, measured

# A row's values but its key, when it is to be looked at, then key, part, key, part ...: flat, for a dictionary alone
# would cost 184 bytes a session, and of plain values alone, for the collector forgets such a tuple: else it would walk
# a million rows, for most of a second in which nothing else runs.
_Entry = tuple[Any, ...]
_FIELDS = ("incarnation", "revision", "position", "created_at", "updated_at", "expires_at")
_CHECK_AT = len(_FIELDS)
_PARTS = _CHECK_AT + 1
_INCARNATION, _REVISION, _CREATED_AT, _EXPIRES_AT = (
    _FIELDS.index(name) for name in ("incarnation", "revision", "created_at", "expires_at")
)
_values_of = operator.attrgetter(*_FIELDS)


class MemoryStore:
    """A SessionStore that ends with the process; with a file, sessions sleep there from a drain to the next start."""

    durability = Durability.NONE
    is_immediate = True

    def __init__(
        self,
        capacity: Capacity,
        lifetimes: Lifetimes,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._capacity = capacity
        self._lifetimes = lifetimes
        self._file = file
        self._clock = clock
        self._told: Callable[[Ending], None]
        self._owners: dict[str, collections.OrderedDict[str, _Entry]] = {}  # each owner's sessions by last use
        self._listed: Any = SortedList()  # (owner, created_at, id)
        self._to_check: Any = SortedList()  # (check_at, owner, id): no later than the session expires
        self._held: collections.Counter[Key] = collections.Counter()
        self._rooms: dict[int, tuple[str, int]] = {}  # what turns have set aside, by epoch
        self._room_numbers = itertools.count(1)
        self._endings: Remembered[Ending] = Remembered(MAX_ENDINGS_PER_OWNER, MAX_ENDINGS)
        self._deeds: Remembered[tuple[Deed, float]] = Remembered(MAX_DEEDS_PER_OWNER, _MAX_DEEDS)
        self._sessions = Shares()
        self._bytes = Shares()  # what is set aside included

    def __repr__(self) -> str:
        num_bytes = f"{self._bytes.total} bytes"
        return f"MemoryStore({self._sessions.total} of {self._capacity.max_sessions} sessions, {num_bytes})"

    async def start(self, told: Callable[[Ending], None]) -> None:
        self._told = told
        if self._file is None:
            return
        for row, parts in read_sessions(self._file):
            self._add(row, parts)
        self._file.unlink(missing_ok=True)

    async def close(self) -> None:
        if self._file is not None:
            write_sessions(self._file, self._all())

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        if deed is not None and (known := self._find_deed(deed.owner, deed.request_id)) is not None:
            raise Repeated(known)
        now, ids = self._clock(), [birth.id for birth in births]
        for birth in births:
            is_taken = isinstance(self._meet(birth.owner, birth.id), tuple)
            if is_taken or ids.count(birth.id) > 1:
                raise SessionExists(f"session {birth.id} exists already")
        self._make_room(births[0].owner, len(births), sum([_weigh(birth.parts) for birth in births]))
        expires_at = now + min(self._lifetimes.idle, self._lifetimes.absolute)
        rows = [Row(one.id, one.owner, one.incarnation, 0, one.position, now, now, expires_at) for one in births]
        for row, birth in zip(rows, births, strict=True):
            self._add(row, birth.parts)
            self._endings.forget(row.owner, row.id)
        self._record(deed, now)
        return rows

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        return self._find_deed(owner, request_id)

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        found = self._meet(owner, session_id)
        return _row_of((owner, session_id), found) if isinstance(found, tuple) else found

    async def take(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        found = self._meet(owner, session_id)
        if not isinstance(found, tuple):
            return found
        key, epoch = (owner, session_id), 0
        if room and not self._capacity.evicts:
            epoch = self._set_aside(owner, room)
        self._owners[owner].move_to_end(session_id)
        self._held[key] += 1
        return Held(_row_of(key, found), _parts_of(found), epoch)

    async def commit(self, held: Held, change: Change) -> Row:
        key = (held.row.owner, held.row.id)
        found = self._find(*key)
        wanted = (held.row.incarnation, held.row.revision)
        if found is None or (found[_INCARNATION], found[_REVISION]) != wanted:
            raise SessionMoved(f"session {held.row.id} was changed while the turn ran")
        self._give_back(held.epoch)
        parts, growth = _parts_of(found), 0
        for name in (*change.drop, *change.put):
            growth -= len(parts.pop(name, b""))
        for name, part in change.put.items():
            growth += len(part)
            parts[name] = part
        self._bytes.change(key[0], growth)
        row = self._next_row(held.row, change.position)
        self._put(row, found[_CHECK_AT], parts)
        return row

    async def release(self, held: Held) -> None:
        self._give_back(held.epoch)
        key = (held.row.owner, held.row.id)
        self._held[key] -= 1
        if self._held[key] <= 0:
            del self._held[key]

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        if deed is not None and (known := self._find_deed(deed.owner, deed.request_id)) is not None:
            raise Repeated(known)
        key = (row.owner, row.id)
        found = self._find(*key)
        is_there = found is not None and found[_INCARNATION] == row.incarnation
        if found is not None and is_there and reason in (EndReason.IDLE, EndReason.AGE):
            is_there = (
                found[_EXPIRES_AT] <= self._clock() and found[_REVISION] == row.revision and key not in self._held
            )
        if is_there:
            self._end(key, reason)
        self._record(deed, self._clock())
        return is_there

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        rows: list[Row] = []
        while batch := list(itertools.islice(self._after(owner, after), count - len(rows))):
            for _, created_at, session_id in batch:
                after, found = (created_at, session_id), self._meet(owner, session_id)
                if isinstance(found, tuple):
                    rows.append(_row_of((owner, session_id), found))
        return rows

    async def sweep(self, count: int) -> int:
        num_ended = self._end_due(count)
        while self._capacity.evicts and num_ended < count and self._bytes.total > self._capacity.max_bytes:
            victim = self._choose_victim(self._bytes, "")
            if victim is None:
                break
            self._end(victim, EndReason.EVICTED)
            num_ended += 1
        return num_ended

    async def num_live(self) -> int:
        return self._sessions.total

    def durable_position(self, row: Row) -> int:
        return 0

    def _find(self, owner: str, session_id: str) -> _Entry | None:
        sessions = self._owners.get(owner)
        return sessions.get(session_id) if sessions is not None else None

    def _meet(self, owner: str, session_id: str) -> _Entry | Ending | None:
        """The session, unless its time has come: then it ends here."""
        found = self._find(owner, session_id)
        if found is None:
            return self._endings.get(owner, session_id)
        if found[_EXPIRES_AT] > self._clock() or (owner, session_id) in self._held:
            return found
        return self._end((owner, session_id), self._why_due(found))

    def _why_due(self, found: _Entry) -> EndReason:
        is_old = found[_EXPIRES_AT] >= found[_CREATED_AT] + self._lifetimes.absolute
        return EndReason.AGE if is_old else EndReason.IDLE

    def _next_row(self, row: Row, position: int) -> Row:
        now = self._clock()
        expires_at = min(row.created_at + self._lifetimes.absolute, now + self._lifetimes.idle)
        moments = (row.created_at, now, expires_at)
        return Row(row.id, row.owner, row.incarnation, row.revision + 1, position, *moments)

    def _add(self, row: Row, parts: Parts) -> None:
        self._to_check.add((row.expires_at, row.owner, row.id))
        self._listed.add((row.owner, row.created_at, row.id))
        self._owners.setdefault(row.owner, collections.OrderedDict())
        self._put(row, row.expires_at, parts)
        self._sessions.change(row.owner, 1)
        self._bytes.change(row.owner, _weigh(parts))

    def _put(self, row: Row, check_at: float, parts: Parts) -> None:
        sessions = self._owners[row.owner]
        sessions[row.id] = (*_values_of(row), check_at, *itertools.chain.from_iterable(parts.items()))
        sessions.move_to_end(row.id)

    def _end(self, key: Key, reason: EndReason) -> Ending:
        owner, session_id = key
        sessions = self._owners[owner]
        entry = sessions.pop(session_id)
        if not sessions:
            del self._owners[owner]
        self._listed.remove((owner, entry[_CREATED_AT], session_id))
        self._to_check.remove((entry[_CHECK_AT], owner, session_id))
        self._sessions.change(owner, -1)
        self._bytes.change(owner, -_weigh(_parts_of(entry)))
        ending = Ending(session_id, owner, reason, self._clock(), entry[_INCARNATION])
        if reason is not EndReason.UNDONE:
            self._endings.put(owner, session_id, ending)
            self._told(ending)
        return ending

    def _end_due(self, count: int) -> int:
        """Of those that are to be looked at, about `count`; who was used since is looked at later."""
        now, num_ended = self._clock(), 0
        for _ in range(2 * count):
            if num_ended >= count or not self._to_check or self._to_check[0][0] > now:
                break
            _, owner, session_id = self._to_check[0]
            found = self._find(owner, session_id)
            assert found is not None
            if found[_EXPIRES_AT] <= now and (owner, session_id) not in self._held:
                self._end((owner, session_id), self._why_due(found))
                num_ended += 1
            else:
                self._postpone((owner, session_id), found, max(found[_EXPIRES_AT], now + _RECHECK_SECONDS))
        return num_ended

    def _postpone(self, key: Key, found: _Entry, check_at: float) -> None:
        """In place, so that it is not taken for a use."""
        self._to_check.remove((found[_CHECK_AT], *key))
        self._to_check.add((check_at, *key))
        self._owners[key[0]][key[1]] = (*found[:_CHECK_AT], check_at, *found[_PARTS:])

    def _set_aside(self, owner: str, room: int) -> int:
        """Room for a change, by its number. Raises Overloaded."""
        self._make_room(owner, 0, room)
        number = next(self._room_numbers)
        self._rooms[number] = (owner, room)
        self._bytes.change(owner, room)
        return number

    def _give_back(self, number: int) -> None:
        owner, room = self._rooms.pop(number, ("", 0))
        self._bytes.change(owner, -room)

    def _make_room(self, owner: str, num_sessions: int, num_bytes: int) -> None:
        """For so much more. Raises Overloaded when that cannot be."""
        while (lack := self._find_lack(owner, num_sessions, num_bytes)) is not None:
            if self._end_due(_MAX_SWEPT):
                continue
            limit, used, is_own = lack
            victim = None
            if self._capacity.evicts and num_sessions:
                victim = self._oldest_free(owner) if is_own else self._choose_victim(used, owner)
            if victim is None:
                text = f"{self._sessions.total} sessions of {self._bytes.total} bytes are live already"
                raise Overloaded(text, limit=limit, retry_seconds=10.0)
            self._end(victim, EndReason.EVICTED)

    def _find_lack(self, owner: str, num_sessions: int, num_bytes: int) -> tuple[str, Shares, bool] | None:
        """The limit that so much more would pass, what it counts, and whether it is the owner's own."""
        own, capacity = self._capacity.owner_limits, self._capacity
        if (
            own.max_sessions is not None
            and num_sessions
            and self._sessions.used(owner) + num_sessions > own.max_sessions
        ):
            return "max_sessions_per_owner", self._sessions, True
        if own.max_bytes is not None and self._bytes.used(owner) + num_bytes > own.max_bytes:
            return "max_session_bytes_per_owner", self._bytes, True
        if num_sessions and self._sessions.total + num_sessions > capacity.max_sessions:
            return "max_sessions", self._sessions, False
        if self._bytes.total + num_bytes > capacity.max_bytes:
            return "max_session_bytes", self._bytes, False
        return None

    def _choose_victim(self, used: Shares, owner: str) -> Key | None:
        """The least recently used session that nobody holds of the owner furthest above his share, which is who has
        most; of the owner himself where nobody has more."""
        largest = used.largest()
        if largest is None or used.used(owner) >= used.used(largest):
            largest = owner
        if found := self._oldest_free(largest):
            return found
        others = sorted(self._owners, key=used.used, reverse=True)  # only where all of the largest owner's are in use
        return next((found for one in others if (found := self._oldest_free(one))), None)

    def _oldest_free(self, owner: str) -> Key | None:
        keys = ((owner, session_id) for session_id in self._owners.get(owner, ()))
        return next((key for key in keys if key not in self._held), None)

    def _after(self, owner: str, after: tuple[float, str]) -> Iterator[tuple[str, float, str]]:
        last = (owner, float("inf"), "")
        return iter(self._listed.irange((owner, *after), last, inclusive=(False, True)))

    def _find_deed(self, owner: str, request_id: str) -> Deed | None:
        known = self._deeds.get(owner, request_id)
        return known[0] if known is not None and known[1] + DEED_SECONDS > self._clock() else None

    def _record(self, deed: Deed | None, now: float) -> None:
        while (oldest := self._deeds.oldest()) is not None and oldest[1] + DEED_SECONDS <= now:
            self._deeds.forget(oldest[0].owner, oldest[0].request_id)
        if deed is not None:
            self._deeds.put(deed.owner, deed.request_id, (deed, now))

    def _all(self) -> Iterator[tuple[Row, Parts]]:
        for owner, sessions in self._owners.items():
            for session_id, entry in sessions.items():
                yield _row_of((owner, session_id), entry), _parts_of(entry)


def _row_of(key: Key, entry: _Entry) -> Row:
    return Row(key[1], key[0], *entry[:_CHECK_AT])


def _parts_of(entry: _Entry) -> dict[str, bytes]:
    return dict(zip(entry[_PARTS::2], entry[_PARTS + 1 :: 2], strict=True))


def _weigh(parts: Parts) -> int:
    return _ROW_BYTES + sum([len(part) for part in parts.values()])
