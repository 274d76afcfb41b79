"""SQLite stores that are open for as long as a test needs them."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.server.state.conftest import LONG, WIDE

from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Ending, Lifetimes


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
    """A SQLite store that is open meanwhile."""
    store = SqliteStore(path, capacity, lifetimes, cache_bytes, clock)
    await store.start(told)
    try:
        yield store
    finally:
        await store.close()
