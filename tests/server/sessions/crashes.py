"""What the next server would find in a SQLite file if this one died now."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.worlds import LIFETIMES

from carousel.sessions.ledger import Ledger
from carousel.sessions.recovery import recover
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Capacity, Held, Lifetimes
from carousel.state.write_ahead import WriteAhead

_ROOMY = Capacity(1000, 2**30, evicts=True)


def copy_file(path: Path) -> Path:
    """With SQLite's log, if there is one."""
    copy = path.parent / "crashed"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in (path, Path(f"{path}-wal")):
        if file.exists():
            shutil.copy(file, copy)
    return copy / path.name


@contextlib.asynccontextmanager
async def after_crash(
    path: Path, ledger: Ledger, clock: Callable[[], float], lifetimes: Lifetimes = LIFETIMES
) -> AsyncIterator[WriteAhead]:
    """A store of its own on copies of the file and of SQLite's log, recovered."""
    store = WriteAhead(SqliteStore(copy_file(path), _ROOMY, lifetimes, clock=clock), 1e6)
    await store.start(lambda _: None)
    try:
        await recover(store, ledger, clock())
        yield store
    finally:
        await store.close()


async def held_after_crash(
    path: Path,
    ledger: Ledger,
    clock: Callable[[], float],
    name: str = "s",
    owner: str = "ann",
    lifetimes: Lifetimes = LIFETIMES,
) -> Held:
    async with after_crash(path, ledger, clock, lifetimes) as store:
        held = await store.acquire(owner, name)
        assert isinstance(held, Held)
        await store.release(held)
        return held
