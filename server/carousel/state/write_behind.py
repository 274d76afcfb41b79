"""Turns are acknowledged from memory and written to the inner store at an interval: faster, but a crash may lose some.

Only for a store that no other server uses. Sessions are created and ended in the inner store at once. For a session
with unwritten turns, the inner store has outdated times. So it keeps these turns' holds, with the reserved room, until
they are written: it ends no such session by the clock or for room.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from carousel.errors import CarouselError, Overloaded, SessionMoved, StoreUnavailable
from carousel.records import record
from carousel.state.store import (
    Birth,
    Change,
    Deed,
    Durability,
    Ending,
    EndReason,
    Held,
    Row,
    SessionStore,
)

_EVERYTHING = 2**63 - 1
_MAX_UNWRITTEN = 4096  # sessions; beyond it turns wait for the inner store
_MAX_TOGETHER = 64  # sessions of a write that are prepared without a pause
_Key = tuple[str, str]  # owner, session id


class StoreBehind(SessionStore, Protocol):
    """A store that can write changes later, with the rows they had when they were acknowledged."""

    clock: Callable[[], float]

    def next_row(self, row: Row, change: Change) -> Row:
        """Returns the row after a change, dated as far back as the change says."""
        ...

    async def write(self, held: Held, change: Change, row: Row) -> Row:
        """Works as `commit`, but sets the session's row to `row`."""
        ...

    def let_go(self, row: Row, epoch: int) -> None:
        """Works as `release`, at once."""
        ...

    async def reclaim(self, owner: str, session_id: str) -> Held | Ending | None:
        """Works as `take`, also for a due session. Only for a start, while nothing else uses the store."""
        ...

    async def read_log(self) -> Sequence[bytes]:
        """Returns the entries of a log of turns that a crash has left (`write_ahead.py`), in order."""
        ...

    async def trim(self, number: int) -> None:
        """Deletes the entries of that log up to this one."""
        ...


@record(frozen=True, slots=True)
class _Turn:
    epoch: int  # of its hold in the inner store
    position: int  # after the turn


@record(frozen=True, slots=True)
class _Unwritten:
    base: Held  # as the inner store has it
    current: Held
    turns: tuple[_Turn, ...]  # since the base, oldest first


class WriteBehind:
    """A LaterStore. A crash loses at most what was committed within the interval and the write after it: after a failed
    write, commits are refused until a write succeeds."""

    durability = Durability.INTERVAL
    is_immediate = False
    is_shared = False

    def __init__(self, inner: StoreBehind, interval_seconds: float, max_unwritten: int = _MAX_UNWRITTEN) -> None:
        self._inner = inner
        self._interval_seconds = interval_seconds
        self._max_unwritten = max_unwritten
        self._unwritten: dict[_Key, _Unwritten] = {}
        self._in_use: dict[_Key, set[int]] = {}  # epochs of turns that are not released
        self._stale: set[int] = set()  # holds whose sessions have ended or were changed by others meanwhile
        self._num_written = 0
        self._is_failing = False
        self._flushing = asyncio.Lock()
        self._flushes: set[asyncio.Task[None]] = set()  # running
        self._task: asyncio.Task[None] | None = None
        self._on_ending: Callable[[Ending], None] = _ignore
        self._settle: Callable[[], Awaitable[None]] = _settle_nothing

    def __repr__(self) -> str:
        return f"WriteBehind({len(self._unwritten)} unwritten of at most {self._max_unwritten}, {self._inner!r})"

    async def start(self, on_ending: Callable[[Ending], None]) -> None:
        self._on_ending = on_ending
        await self._inner.start(self._report)
        self._task = asyncio.create_task(self._run(), name="write-behind")

    async def close(self) -> None:
        """Raises StoreUnavailable, after closing, if the last turns could not be written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        try:
            await self.flush()
        finally:
            await asyncio.gather(*self._flushes, return_exceptions=True)
            await self._inner.close()
            self._unwritten.clear()
            self._in_use.clear()
            self._stale.clear()

    def settle_with(self, settle: Callable[[], Awaitable[None]]) -> None:
        self._settle = settle

    async def flush(self) -> None:
        """Writes what was acknowledged before the call. Raises StoreUnavailable; unwritten turns then stay unwritten.
        It continues when the caller is cancelled: it would be unknown whether an abandoned write was done."""
        await asyncio.shield(self._begin(self._flush()))

    async def recover(self, replay: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        entries = await self._inner.read_log()
        if entries:
            await replay(entries)
            await self.flush()
            await self._inner.trim(_EVERYTHING)

    async def reclaim(self, owner: str, session_id: str) -> Held | Ending | None:
        held = await self._inner.reclaim(owner, session_id)
        if isinstance(held, Held):
            self._in_use.setdefault((owner, session_id), set()).add(held.epoch)
        return held

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        await self._write_due([(birth.owner, birth.id) for birth in births])
        try:
            return await self._inner.create(births, deed)
        except Overloaded:
            if not self._unwritten:
                raise
        await self.flush()  # unwritten sessions cannot make room
        return await self._inner.create(births, deed)

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        return await self._inner.recall(owner, request_id)

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        await self._write_due([(owner, session_id)])
        found = self._unwritten.get((owner, session_id))
        return found.current.row if found is not None else await self._inner.read(owner, session_id)

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        key = (owner, session_id)
        await self._write_due([key])
        before = self._unwritten.get(key)
        held = await self._acquire(owner, session_id, room)
        if not isinstance(held, Held):
            return held
        self._in_use.setdefault(key, set()).add(held.epoch)
        found = self._unwritten.get(key) or before  # it may have been written while the inner store was read
        if found is None or found.current.row.incarnation != held.row.incarnation:
            return held
        is_newer = found.current.row.revision >= held.row.revision
        return Held(found.current.row, found.current.parts, held.epoch) if is_newer else held

    def check_open(self) -> None:
        if self._is_failing:
            raise StoreUnavailable("the inner session store could not write")

    async def commit(self, held: Held, change: Change) -> Row:
        self.check_open()
        if len(self._unwritten) >= self._max_unwritten:
            await self.flush()
        key = (held.row.owner, held.row.id)
        row = await self._read_current(key)  # nothing is awaited from here on
        if not isinstance(row, Row) or not _is_same(row, held.row):
            raise _moved(held.row)
        self._supersede(key, held.epoch)
        return self._note(key, held, change)

    def note(self, held: Held, change: Change) -> Row:
        key = (held.row.owner, held.row.id)
        found = self._unwritten.get(key)
        is_other = found is not None and not _is_same(found.current.row, held.row)
        if is_other or held.epoch in self._stale or held.epoch not in self._in_use.get(key, ()):
            raise _moved(held.row)
        return self._note(key, held, change)

    def _note(self, key: _Key, held: Held, change: Change) -> Row:
        new = self._inner.next_row(held.row, change)
        dropped = set(change.drop)
        parts = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        found = self._unwritten.get(key) or _Unwritten(held, held, ())
        turns = (*found.turns, _Turn(held.epoch, new.position))
        self._unwritten[key] = _Unwritten(found.base, Held(new, parts, held.epoch), turns)
        return new

    async def release(self, held: Held) -> None:
        key = (held.row.owner, held.row.id)
        self._leave(key, held.epoch)
        found = self._unwritten.get(key)
        if found is None or held.epoch not in (turn.epoch for turn in found.turns):
            await self._inner.release(held)

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        was_there = await self._inner.end(row, reason, deed)
        if was_there:
            self._forget((row.owner, row.id), row.incarnation)
        return was_there

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        await self._write_due(key for key in self._unwritten if key[0] == owner)
        before = dict(self._unwritten)  # what is written meanwhile may have been read before
        return [self._newest(row, before) for row in await self._inner.list_owned(owner, after, count)]

    async def sweep(self, count: int) -> int:
        num_ended = await self._inner.sweep(count)
        if num_ended:
            return num_ended
        return await self._inner.sweep(count) if await self._write_due(self._unwritten) else 0

    async def num_live(self) -> int:
        return await self._inner.num_live()

    async def num_bytes(self) -> int | None:
        return await self._inner.num_bytes()

    def durable_position(self, row: Row) -> int:
        found = self._unwritten.get((row.owner, row.id))
        if found is None:
            return self._inner.durable_position(row)
        return min(self._inner.durable_position(found.base.row), *(turn.position for turn in found.turns))

    async def _acquire(self, owner: str, session_id: str, room: int) -> Held | Ending | None:
        try:
            return await self._inner.acquire(owner, session_id, room)
        except Overloaded:
            if not self._unwritten:
                raise
        await self.flush()  # unwritten turns reserve more room than they need
        return await self._inner.acquire(owner, session_id, room)

    async def _write_due(self, keys: Iterable[_Key]) -> bool:
        """Writes if one of these sessions is due, so that the inner store has its current times."""
        now = self._inner.clock()
        founds = (self._unwritten.get(key) for key in keys)
        if not any(found is not None and found.current.row.expires_at <= now for found in founds):
            return False
        await self.flush()
        return True

    async def _read_current(self, key: _Key) -> Row | Ending | None:
        """Returns the row; it is current at the moment of the return."""
        while True:
            found = self._unwritten.get(key)
            if found is not None:
                return found.current.row
            num_written = self._num_written
            row = await self._inner.read(*key)
            if key not in self._unwritten and num_written == self._num_written:
                return row

    def _newest(self, row: Row, before: Mapping[_Key, _Unwritten]) -> Row:
        key = (row.owner, row.id)
        for found in (self._unwritten.get(key), before.get(key)):
            if found is None or found.current.row.incarnation != row.incarnation:
                continue
            return found.current.row if found.current.row.revision >= row.revision else row
        return row

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Starts a write that runs to its end; `close` waits for it."""
        task = asyncio.create_task(work, name="write-behind-flush")
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)
        task.add_done_callback(_look_at)
        return task

    async def _flush(self) -> None:
        async with self._flushing:
            await self._write_all()

    async def _write_all(self) -> None:
        """Nothing else writes meanwhile."""
        await self._settle()
        waiting, outcomes = list(self._unwritten.items()), list[BaseException | None]()
        for first in range(0, len(waiting), _MAX_TOGETHER):
            some = waiting[first : first + _MAX_TOGETHER]
            outcomes += await asyncio.gather(*(self._write(*one) for one in some), return_exceptions=True)
        failures = [outcome for outcome in outcomes if outcome is not None]
        self._is_failing = bool(failures)
        if failures:
            raise failures[0]

    async def _flush_one(self, key: _Key) -> None:
        async with self._flushing:
            if (unwritten := self._unwritten.get(key)) is not None:
                await self._write(key, unwritten)

    async def _write(self, key: _Key, unwritten: _Unwritten) -> None:
        base, current = unwritten.base, unwritten.current
        put = {name: part for name, part in current.parts.items() if base.parts.get(name) is not part}
        drop = tuple(name for name in base.parts if name not in current.parts)
        try:
            await self._inner.write(base, Change(current.row.position, put, drop), current.row)
        except SessionMoved:  # it was ended meanwhile
            if self._unwritten.get(key) is unwritten:
                self._forget(key, current.row.incarnation)
            return
        self._num_written += 1
        now = self._unwritten.get(key)
        if now is None or now.base is not base:
            return  # it was ended, and maybe created again, meanwhile
        if now is unwritten:
            del self._unwritten[key]
        else:  # used again while it was written
            self._unwritten[key] = _Unwritten(current, now.current, now.turns[len(unwritten.turns) :])
        self._let_go(current.row, unwritten.turns)

    def _report(self, ending: Ending) -> None:
        self._forget((ending.owner, ending.id), ending.incarnation)
        self._on_ending(ending)

    def _forget(self, key: _Key, incarnation: int) -> None:
        """The session has ended: none of it is written or noted any more."""
        self._stale |= self._in_use.get(key, set())
        found = self._unwritten.get(key)
        if found is not None and found.current.row.incarnation == incarnation:
            del self._unwritten[key]
            self._let_go(found.current.row, found.turns)

    def _let_go(self, row: Row, turns: Iterable[_Turn]) -> None:
        in_use = self._in_use.get((row.owner, row.id), ())
        for turn in turns:
            if turn.epoch not in in_use:
                self._inner.let_go(row, turn.epoch)

    def _supersede(self, key: _Key, epoch: int) -> None:
        """The session changes under that hold: its other holds are now outdated."""
        self._stale |= self._in_use.get(key, set()) - {epoch}

    def _leave(self, key: _Key, epoch: int) -> None:
        in_use = self._in_use.get(key, set())
        in_use.discard(epoch)
        if not in_use:
            self._in_use.pop(key, None)
        self._stale.discard(epoch)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            with contextlib.suppress(CarouselError):  # `flush` remembers it
                await self.flush()


def _is_same(one: Row, other: Row) -> bool:
    return (one.incarnation, one.revision) == (other.incarnation, other.revision)


def _moved(row: Row) -> SessionMoved:
    return SessionMoved(f"session {row.id} was changed while the turn ran")


async def _settle_nothing() -> None:
    """Does nothing: nothing is acknowledged but not noted."""


def _ignore(ending: Ending) -> None:
    """Before the start nothing ends."""


def _look_at(task: "asyncio.Task[None]") -> None:
    """Retrieves the exception: the waiting caller may be gone."""
    if not task.cancelled():
        task.exception()
