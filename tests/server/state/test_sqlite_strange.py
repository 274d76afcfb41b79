"""A valid file into which another program has written: refused, or unavailable where its content is impossible."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from carousel.errors import StoreInvalid, StoreUnavailable
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Birth, Capacity, Deed, EndReason, Lifetimes

NOW = 1.8e9


def make_store(path: Path) -> SqliteStore:
    return SqliteStore(path, Capacity(10, 2**20, True), Lifetimes(600, 6000), clock=lambda: NOW)


async def write(path: Path, statement: str, value: object) -> SqliteStore:
    """A file with a session, an ending and a deed, changed by the statement; its store, not started."""
    store = make_store(path)
    await store.start(lambda ending: None)
    await store.create([Birth("a", "ann", 1, 0, {"part": b"x"})])
    (row,) = await store.create([Birth("b", "ann", 2, 0, {})], Deed("ann", "r", "f", (("b", 2),)))
    await store.end(row, EndReason.DELETED)
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, (value,))
        connection.commit()
    return make_store(path)


async def test_sizes_below_nothing_are_refused(tmp_path: Path) -> None:
    """Counts that no server writes are found at the start."""
    store = await write(tmp_path / "file", "UPDATE sessions SET num_bytes = ?", -5)
    with pytest.raises(StoreInvalid, match="damaged"):
        await store.start(lambda ending: None)


async def test_an_unknown_ending_is_no_answer(tmp_path: Path) -> None:
    """An invalid reason is not reported, and is not a library error; other sessions are served."""
    store = await write(tmp_path / "file", "UPDATE endings SET reason = ?", "nan")
    await store.start(lambda ending: None)
    try:
        with pytest.raises(StoreUnavailable, match="nan"):
            await store.read("ann", "b")
        assert await store.read("ann", "a") is not None
    finally:
        await store.close()


@pytest.mark.parametrize("targets", ["", "null", "[1]", '[["b"]]', '[["b", "x"]]', "[" * 5000])
async def test_strange_targets_are_no_deed(tmp_path: Path, targets: str) -> None:
    """An unreadable deed is neither repeated nor ignored."""
    store = await write(tmp_path / "file", "UPDATE deeds SET targets = ?", targets)
    await store.start(lambda ending: None)
    try:
        with pytest.raises(StoreUnavailable, match="targets"):
            await store.recall("ann", "r")
    finally:
        await store.close()
