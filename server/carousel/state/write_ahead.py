"""Turns are acknowledged when a log of them is on disk, and written into the inner store at an interval: a turn costs
one log entry, which all turns of its step share.

The log is for turns of held sessions. This store learns of them before its next write; until then only the log has
them. Only the module that appends entries, and reads them after a crash, knows their meaning.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from carousel.errors import StoreUnavailable
from carousel.state.store import Change, Durability, Held, Row
from carousel.state.write_behind import StoreBehind, WriteBehind

_INTERVAL_SECONDS = 1.0
_LARGE_BYTES = 16 * 2**20  # of a log; a write is due then
_MAX_BYTES = 256 * 2**20


class LoggingStore(StoreBehind, Protocol):
    """A store with room for a log."""

    async def append(self, entry: bytes, then: Callable[[int], None]) -> None:
        """When the entry is durable, `then` is called with its number, in the order of the numbers. Raises
        StoreUnavailable."""
        ...


class WriteAhead(WriteBehind):
    """A LogStore. A crash loses nothing that was committed or appended."""

    durability = Durability.EACH_TURN

    def __init__(self, inner: LoggingStore, interval_seconds: float = _INTERVAL_SECONDS) -> None:
        super().__init__(inner, interval_seconds)
        self._log = inner
        self._last_number = 0  # of the entries whose turns the next write will note
        self._num_bytes = 0  # in the log

    def check_open(self) -> None:
        if self._num_bytes >= _MAX_BYTES:
            raise StoreUnavailable("the inner session store could not write")

    async def append(self, entry: bytes, then: Callable[[], None]) -> None:
        def appended(number: int) -> None:
            self._last_number = number
            self._num_bytes += len(entry)
            then()

        await self._log.append(entry, appended)
        if self._num_bytes >= _LARGE_BYTES and not self._flushes:
            self._begin(self._flush())

    async def commit(self, held: Held, change: Change) -> Row:
        key = (held.row.owner, held.row.id)
        if key in self._unwritten:
            await asyncio.shield(self._begin(self._flush_one(key)))
        row = await self._inner.commit(held, change)
        self._supersede(key, held.epoch)
        return row

    def durable_position(self, row: Row) -> int:
        return row.position

    async def _write_all(self) -> None:
        number, num_bytes = self._last_number, self._num_bytes
        await super()._write_all()
        if num_bytes:
            await self._log.trim(number)
            self._num_bytes -= num_bytes
