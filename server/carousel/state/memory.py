"""Sessions in this process's memory: the reference implementation, bounded by count and bytes."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from carousel.errors import SessionExists, SessionMoved
from carousel.state.memory_file import read_memory, write_memory
from carousel.state.remembered import Remembered
from carousel.state.room import Evictable, Room
from carousel.state.shelf import (
    EXPIRES_AT,
    INCARNATION,
    KEY,
    REVISION,
    Entry,
    Key,
    Shelf,
    make_entry,
    parts_of,
    row_of,
    weigh,
    weigh_parts,
)
from carousel.state.store import (
    DEED_SECONDS,
    MAX_DEEDS,
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
from carousel.tidy_heap import TidyHeap

_Hint = tuple[float, Key, str]  # when a session is due at the earliest (later if used since), its key, its owner

_HINTS_PER_END = 16  # a hint that has moved costs this much less than an end
_MAX_MET = 256  # due sessions that one page of a list ends; it skips the rest


class MemoryStore:
    """A SessionStore that ends with the process. With a file, it saves the sessions at a drain and loads them at the
    next start."""

    durability = Durability.NONE
    is_immediate = True
    is_shared = False

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
        self._shelves: dict[str, Shelf] = {}  # of owners that have sessions
        self._room = Room(capacity, self._walk_evictable)
        self._expiries: TidyHeap[_Hint] = TidyHeap()  # one valid hint of each session outside `_overdue`
        self._endings: Remembered[Ending] = Remembered(MAX_ENDINGS_PER_OWNER, MAX_ENDINGS)
        self._deeds: Remembered[tuple[float, Deed]] = Remembered(MAX_DEEDS_PER_OWNER, MAX_DEEDS)  # with their times
        self._takes: dict[int, int] = {}  # epoch of every open take -> reserved bytes
        self._held: dict[tuple[str, str], int] = {}  # (owner, id) -> number of holds
        self._overdue: set[tuple[str, str]] = set()  # held when they came due; no hint in `_expiries`
        self._epochs = itertools.count(1)
        self._on_ending: Callable[[Ending], None] = lambda ending: None

    def __repr__(self) -> str:
        room = self._room
        return f"MemoryStore({room.sessions.total} of {self._capacity.max_sessions} sessions, {room.bytes.total} bytes)"

    async def start(self, on_ending: Callable[[Ending], None]) -> None:
        self._on_ending = on_ending
        if self._file is None:
            return
        sessions, deeds = read_memory(self._file)
        for row, parts in sessions:
            self._add(row, parts)
        for at, deed in deeds:
            self._deeds.put(deed.owner, deed.request_id, (at, deed))
        self._file.unlink(missing_ok=True)

    async def close(self) -> None:
        if self._file is not None:
            entries = ((owner, entry) for owner, shelf in self._shelves.items() for entry in shelf.entries.values())
            sessions = ((row_of(owner, entry), parts_of(entry)) for owner, entry in entries)
            write_memory(self._file, sessions, self._deeds.items())

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        now = self._clock()
        self._check_new(deed, now)
        for birth in births:
            if self._meet(birth.owner, birth.id, now) is not None:
                raise SessionExists(f"session {birth.id} exists already")
        if len({birth.id for birth in births}) < len(births):
            raise SessionExists("two of the new sessions have the same id")
        if births:
            self._make_room(births, now)
        expires_at = now + min(self._lifetimes.idle, self._lifetimes.absolute)
        rows = [Row(one.id, one.owner, one.incarnation, 0, one.position, now, now, expires_at) for one in births]
        for row, birth in zip(rows, births, strict=True):
            self._add(row, birth.parts)
            self._endings.forget(row.owner, row.id)
        self._record(deed, now)
        return rows

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        return self._recall(owner, request_id, self._clock())

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        entry = self._meet(owner, session_id, self._clock())
        return row_of(owner, entry) if entry is not None else self._endings.get(owner, session_id)

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        now = self._clock()
        entry = self._meet(owner, session_id, now)
        if entry is None:
            return self._endings.get(owner, session_id)
        if self._capacity.evicts:
            room = 0  # the next sweep evicts what grows beyond the bound
        elif room:
            if self._room.is_short(owner, 0, room):
                self._end_due_until_fits(owner, 0, room, now)
                self._room.make(owner, 0, room)
            self._room.bytes.change(owner, room)
        self.pin(owner, session_id)
        epoch = next(self._epochs)
        self._takes[epoch] = room
        return Held(row_of(owner, entry), parts_of(entry), epoch)

    async def commit(self, held: Held, change: Change) -> Row:
        old = held.row
        shelf = self._shelves.get(old.owner)
        entry = shelf.entries.get(old.id) if shelf is not None else None
        if shelf is None or entry is None or (entry[INCARNATION], entry[REVISION]) != (old.incarnation, old.revision):
            raise SessionMoved(f"session {old.id} was changed while the turn ran")
        parts, growth = parts_of(entry), 0
        for name in change.drop:
            growth -= len(parts.pop(name, b""))
        for name, part in change.put.items():
            growth += len(part) - len(parts.get(name, b""))
            parts[name] = part
        now, key = self._clock() - change.age_seconds, entry[KEY]
        expires_at = min(now + self._lifetimes.idle, key[0] + self._lifetimes.absolute)
        row = Row(
            old.id, old.owner, old.incarnation, old.revision + 1, change.position, old.created_at, now, expires_at
        )
        shelf.entries[old.id] = make_entry(row, key, parts)
        if held.epoch in self._takes:  # otherwise it was used when it was pinned, maybe long ago
            shelf.entries.move_to_end(old.id)
        if room := self._takes.get(held.epoch, 0):
            self._takes[held.epoch] = 0
        self._room.bytes.change(old.owner, growth - room)
        return row

    async def release(self, held: Held) -> None:
        room = self._takes.pop(held.epoch, None)
        if room is None:
            return  # it was already released
        self._room.bytes.change(held.row.owner, -room)
        self.unpin(held.row.owner, held.row.id)

    def pin(self, owner: str, session_id: str) -> bool:
        shelf = self._shelves.get(owner)
        if shelf is None or session_id not in shelf.entries:
            return False
        shelf.entries.move_to_end(session_id)
        self._room.touch(owner)
        key = (owner, session_id)
        self._held[key] = self._held.get(key, 0) + 1
        return True

    def unpin(self, owner: str, session_id: str) -> None:
        key = (owner, session_id)
        count = self._held.pop(key) - 1
        if count:
            self._held[key] = count
        elif key in self._overdue:
            self._overdue.discard(key)
            entry = self._shelves[owner].entries[session_id]
            self._expiries.push((entry[EXPIRES_AT], entry[KEY], owner))

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        now = self._clock()
        self._check_new(deed, now)
        num_before = self._room.sessions.total
        entry = self._meet(row.owner, row.id, now)
        if reason in (EndReason.IDLE, EndReason.AGE):
            return self._room.sessions.total < num_before  # only due sessions, which end on access
        if entry is None or entry[INCARNATION] != row.incarnation:
            return False
        if reason is EndReason.EVICTED and (row.owner, row.id) in self._held:
            return False
        self._end(row.owner, row.id, reason, now)
        self._record(deed, now)
        return True

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        shelf = self._shelves.get(owner)
        if shelf is None:
            return []
        now, rows, due = self._clock(), list[Row](), list[str]()
        for session_id in shelf.walk_after(after):
            entry = shelf.entries[session_id]
            if not self._is_due(owner, entry, now):
                rows.append(row_of(owner, entry))
                if len(rows) >= count:
                    break
            elif len(due) < _MAX_MET:
                due.append(session_id)
        for session_id in due:
            self._meet(owner, session_id, now)
        return rows

    async def sweep(self, count: int) -> int:
        now = self._clock()
        self._forget_deeds(count, now)
        num_ended = self._end_due(count, now)
        while num_ended < count and (found := self._room.find_excess()) is not None:
            self._end(found.owner, found.id, EndReason.EVICTED, now)
            num_ended += 1
        return num_ended

    async def num_live(self) -> int:
        return self._room.sessions.total

    async def num_bytes(self) -> int:
        return self._room.bytes.total

    def durable_position(self, row: Row) -> int:
        return 0

    def _add(self, row: Row, parts: Parts) -> None:
        key = (row.created_at, row.id)
        self._shelves.setdefault(row.owner, Shelf()).add(make_entry(row, key, parts))
        self._expiries.push((row.expires_at, key, row.owner))
        self._room.change(row.owner, 1, weigh_parts(parts))

    def _is_due(self, owner: str, entry: Entry, now: float) -> bool:
        return bool(entry[EXPIRES_AT] <= now) and (owner, entry[KEY][1]) not in self._held

    def _meet(self, owner: str, session_id: str, now: float) -> Entry | None:
        """Returns the session; ends it instead when it is due."""
        shelf = self._shelves.get(owner)
        entry = shelf.entries.get(session_id) if shelf is not None else None
        if entry is None or not self._is_due(owner, entry, now):
            return entry
        is_old = now >= entry[KEY][0] + self._lifetimes.absolute
        self._end(owner, session_id, EndReason.AGE if is_old else EndReason.IDLE, now)
        return None

    def _end(self, owner: str, session_id: str, reason: EndReason, now: float) -> None:
        shelf = self._shelves[owner]
        entry = shelf.remove(session_id)
        if not shelf.entries:
            del self._shelves[owner]
        self._room.change(owner, -1, -weigh(entry))
        self._overdue.discard((owner, session_id))
        self._expiries.tidy(self._room.sessions.total, self._renew_hint)
        if reason is not EndReason.UNDONE:
            ending = Ending(session_id, owner, reason, now, entry[INCARNATION])
            self._endings.put(owner, session_id, ending)
            self._on_ending(ending)

    def _find(self, owner: str, key: Key) -> Entry | None:
        shelf = self._shelves.get(owner)
        entry = shelf.entries.get(key[1]) if shelf is not None else None
        return entry if entry is not None and entry[KEY] is key else None

    def _renew_hint(self, hint: _Hint) -> _Hint | None:
        _, key, owner = hint
        entry = self._find(owner, key)
        return None if entry is None else (entry[EXPIRES_AT], key, owner)

    def _end_due(self, count: int, now: float) -> int:
        """Returns how many sessions ended; 1 when none did but more must be checked."""
        num_ended = 0
        for _ in range(_HINTS_PER_END * count):
            hint = self._expiries.peek()
            if num_ended == count or hint is None or hint[0] > now:
                return num_ended
            _, key, owner = self._expiries.pop()
            entry = self._find(owner, key)
            if entry is None:
                continue
            if entry[EXPIRES_AT] > now:  # it was used since; its hint moves now, not at every use
                self._expiries.push((entry[EXPIRES_AT], key, owner))
            elif (owner, key[1]) in self._held:
                self._overdue.add((owner, key[1]))
            else:
                self._meet(owner, key[1], now)
                num_ended += 1
        return max(1, num_ended)

    def _make_room(self, births: Sequence[Birth], now: float) -> None:
        owner, num_bytes = births[0].owner, sum(weigh_parts(birth.parts) for birth in births)
        self._end_due_until_fits(owner, len(births), num_bytes, now)
        for victim in self._room.make(owner, len(births), num_bytes):
            self._end(victim.owner, victim.id, EndReason.EVICTED, now)

    def _end_due_until_fits(self, owner: str, num_sessions: int, num_bytes: int, now: float) -> None:
        for _ in range(_MAX_MET):
            if not self._room.is_short(owner, num_sessions, num_bytes) or not self._end_due(1, now):
                return

    def _walk_evictable(self, owner: str) -> Iterator[Evictable]:
        shelf = self._shelves.get(owner)
        for session_id, entry in shelf.entries.items() if shelf is not None else ():
            if (owner, session_id) not in self._held:
                yield Evictable(owner, session_id, weigh(entry))

    def _recall(self, owner: str, request_id: str, now: float) -> Deed | None:
        at, deed = self._deeds.get(owner, request_id) or (0.0, None)
        return deed if now < at + DEED_SECONDS else None

    def _check_new(self, deed: Deed | None, now: float) -> None:
        if deed is not None and (done := self._recall(deed.owner, deed.request_id, now)) is not None:
            raise Repeated(done)

    def _record(self, deed: Deed | None, now: float) -> None:
        if deed is not None:
            self._deeds.put(deed.owner, deed.request_id, (now, deed))

    def _forget_deeds(self, count: int, now: float) -> None:
        for _ in range(count):
            at, deed = self._deeds.oldest() or (now, None)
            if deed is None or now < at + DEED_SECONDS:
                return
            self._deeds.forget(deed.owner, deed.request_id)
