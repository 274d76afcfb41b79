"""Turns acknowledged from memory and written to the store behind at an interval: faster, and a crash may take some.

Only for a store that no other server uses. Sessions are made and ended in the store behind at once.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from carousel.errors import CarouselError, SessionMoved, StoreUnavailable
from carousel.state.store import Change, Durability, Ending, EndReason, Held, Parts, Row, SessionStore

_MAX_UNWRITTEN = 4096  # sessions; beyond it turns wait for the store behind


@dataclass(frozen=True, slots=True)
class _Unwritten:
    base: Held  # as the store behind has it
    current: Held


class WriteBehind:
    """A SessionStore. A crash takes at most what was committed within the interval and the write after it: when a write
    fails, further commits are refused until one has succeeded."""

    durability = Durability.INTERVAL
    is_immediate = False

    def __init__(self, inner: SessionStore, interval_seconds: float, max_unwritten: int = _MAX_UNWRITTEN) -> None:
        self._inner = inner
        self._interval_seconds = interval_seconds
        self._max_unwritten = max_unwritten
        self._unwritten: dict[str, _Unwritten] = {}
        self._num_written = 0
        self._is_failing = False
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"WriteBehind({len(self._unwritten)} unwritten of at most {self._max_unwritten}, {self._inner!r})"

    async def start(self) -> None:
        await self._inner.start()
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
            await self._inner.close()

    async def flush(self) -> None:
        """Write what was acknowledged before the call. Raises StoreUnavailable; what is unwritten then stays so."""
        async with self._flushing:
            waiting = list(self._unwritten.items())
            outcomes = await asyncio.gather(*(self._write(*one) for one in waiting), return_exceptions=True)
            failures = [outcome for outcome in outcomes if outcome is not None]
            self._is_failing = bool(failures)
            if failures:
                raise failures[0]

    async def create(self, row: Row, parts: Parts) -> list[Ending]:
        evicted = await self._inner.create(row, parts)
        for ending in evicted:
            self._unwritten.pop(ending.id, None)
        return evicted

    async def read(self, session_id: str) -> Row | Ending | None:
        found = self._unwritten.get(session_id)
        return found.current.row if found is not None else await self._inner.read(session_id)

    async def take(self, session_id: str) -> Held | Ending | None:
        before = self._unwritten.get(session_id)
        held = await self._inner.take(session_id)
        found = self._unwritten.get(session_id) or before  # it may have been written while the store behind was read
        if not isinstance(held, Held) or found is None or found.current.row.revision < held.row.revision:
            return held
        return found.current if found.current.row.incarnation == held.row.incarnation else held

    async def commit(self, held: Held, change: Change) -> None:
        if self._is_failing:
            raise StoreUnavailable("the session store behind could not write")
        if len(self._unwritten) >= self._max_unwritten:
            await self.flush()
        row = await self._read_current(held.row.id)  # nothing is awaited from here on
        if not isinstance(row, Row) or (row.incarnation, row.revision) != (held.row.incarnation, held.row.revision):
            raise SessionMoved(f"session {held.row.id} was changed while the turn ran")
        dropped = set(change.drop)
        parts = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        found = self._unwritten.get(held.row.id)
        base = found.base if found is not None else held
        self._unwritten[held.row.id] = _Unwritten(base, Held(change.row, parts, held.epoch))

    async def release(self, held: Held) -> None:
        await self._inner.release(held)

    async def end(self, row: Row, reason: EndReason, now: float) -> bool:
        was_there = await self._inner.end(row, reason, now)
        if was_there:
            self._unwritten.pop(row.id, None)
        return was_there

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        return [self._newest(row) for row in await self._inner.list_owned(owner, after, count)]

    async def due(self, now: float) -> list[Row]:
        rows = await self._inner.due(now)
        if any(row.id in self._unwritten for row in rows):  # they were used since
            await self.flush()
            rows = await self._inner.due(now)
        return rows

    async def excess(self) -> list[Row]:
        return await self._inner.excess()

    async def num_live(self) -> int:
        return await self._inner.num_live()

    def durable_position(self, row: Row) -> int:
        found = self._unwritten.get(row.id)
        return self._inner.durable_position(row if found is None else found.base.row)

    async def _read_current(self, session_id: str) -> Row | Ending | None:
        """True at the moment of the return."""
        while True:
            found = self._unwritten.get(session_id)
            if found is not None:
                return found.current.row
            num_written = self._num_written
            row = await self._inner.read(session_id)
            if session_id not in self._unwritten and num_written == self._num_written:
                return row

    def _newest(self, row: Row) -> Row:
        found = self._unwritten.get(row.id)
        return found.current.row if found is not None else row

    async def _write(self, session_id: str, unwritten: _Unwritten) -> None:
        base, current = unwritten.base, unwritten.current
        put = {name: part for name, part in current.parts.items() if base.parts.get(name) is not part}
        drop = tuple(name for name in base.parts if name not in current.parts)
        try:
            await self._inner.commit(base, Change(current.row, put, drop))
        except SessionMoved:  # it was ended or evicted meanwhile
            if self._unwritten.get(session_id) is unwritten:
                del self._unwritten[session_id]
            return
        self._num_written += 1
        now = self._unwritten.get(session_id)
        if now is unwritten:
            del self._unwritten[session_id]
        elif now is not None and now.base is base:  # used again while it was written
            self._unwritten[session_id] = _Unwritten(current, now.current)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            with contextlib.suppress(CarouselError):  # `flush` remembers it
                await self.flush()
