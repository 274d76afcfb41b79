"""Opens SQLite stores for as long as a test needs them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.fakes import FakeClock
from tests.server.state.conftest import LONG, NOW, WIDE

from carousel.errors import StoreUnavailable
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Change, Ending, Held, Lifetimes, Row
from carousel.state.write_behind import WriteBehind


@contextlib.asynccontextmanager
async def opened(
    path: Path,
    capacity: Capacity = WIDE,
    *,
    lifetimes: Lifetimes = LONG,
    cache_bytes: int = 2**20,
    clock: Callable[[], float] = time.time,
    told: Callable[[Ending], None] = lambda _: None,
) -> AsyncIterator[SqliteStore]:
    """Keeps a SQLite store open inside the block."""
    store = SqliteStore(path, capacity, lifetimes, cache_bytes, clock)
    await store.start(told)
    try:
        yield store
    finally:
        await store.close()


class GatedStore(SqliteStore):
    """A real store whose writes wait for a gate or fail."""

    def __init__(self, path: Path, capacity: Capacity = WIDE, cache_bytes: int = 2**20) -> None:
        self.fake_clock = FakeClock(NOW)
        super().__init__(path, capacity, LONG, cache_bytes, self.fake_clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.is_broken = False
        self.writes: list[tuple[Row, Change]] = []

    async def write(self, held: Held, change: Change, row: Row) -> Row:
        self.writes.append((row, change))
        self.reached.set()
        await self.gate.wait()
        if self.is_broken:
            raise StoreUnavailable("the disk is full")
        return await super().write(held, change, row)


async def start_behind(inner: GatedStore, told: list[Ending] | None = None, **options: float) -> WriteBehind:
    """Starts a write-behind store, which writes by itself only where an interval is given."""
    store = WriteBehind(inner, options.get("interval_seconds", 1e6), int(options.get("max_unwritten", 4096)))
    await store.start((told if told is not None else []).append)
    return store
