"""Session files of a memory store and an SQLite store, with accidents in any place, and full use of a store that
accepts them."""

import asyncio
import contextlib
import json
import random
import sqlite3
import struct
import zlib
from pathlib import Path

from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.mutations import LONG_INTEGERS, TEXTS, mutate, mutate_json, nested
from trials.fuzz.state_inputs import draw_snapshot, make_codec

from carousel.state.memory import MemoryStore
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Birth, Capacity, Change, Deed, EndReason, Held, Lifetimes, SessionStore

_RECORD = struct.Struct("<II")
CAPACITY, LIFETIMES = Capacity(100, 2**24, True), Lifetimes(3600, 86_400)
OWNER = "owner"
_DEED = Deed(OWNER, "request", "fingerprint", (("one", 1),))


def now() -> float:
    return 1.8e9


def memory_files(place: Place) -> Decoder:
    path = place.directory / "sessions.mem"
    clear(path)
    asyncio.run(fill(_memory_store(path), place))
    whole = path.read_bytes()

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        asyncio.run(start_and_use(_memory_store(path)))

    return Decoder(lambda dice: _spoil_records(dice, whole), attempt)


def sqlite_files(place: Place) -> Decoder:
    path = place.directory / "sessions.db"
    clear(path)
    asyncio.run(fill(SqliteStore(path, CAPACITY, LIFETIMES, clock=now), place))
    whole = path.read_bytes()

    def attempt(content: bytes) -> None:
        clear(path)
        path.write_bytes(content)
        asyncio.run(start_and_use(SqliteStore(path, CAPACITY, LIFETIMES, clock=now)))

    return Decoder(lambda dice: _spoil_database(dice, whole, path), attempt)


def _memory_store(path: Path) -> MemoryStore:
    return MemoryStore(CAPACITY, LIFETIMES, path, now)


async def fill(store: SessionStore, place: Place) -> None:
    """Creates three sessions with a past, an ending, a deed."""
    snapshot = make_codec(place.bundle.manifest).encode(draw_snapshot(random.Random(0), place.bundle.manifest))
    await store.start(lambda ending: None)
    births = [Birth(name, OWNER, number, 5, {"at/000000000000": snapshot}) for number, name in enumerate("ab")]
    await store.create(births)
    rows = await store.create([Birth("one", OWNER, 1, 0, {})], _DEED)
    await store.create([Birth("c", "", 1, 0, {})])
    await _turn(store, OWNER, "a")
    await store.end(rows[0], EndReason.DELETED)
    await store.close()


async def _turn(store: SessionStore, owner: str, session_id: str) -> None:
    held = await store.acquire(owner, session_id, 100)
    if isinstance(held, Held):
        try:
            await store.commit(held, Change(9, {"at/000000000001": b"snapshot"}, ()))
        finally:
            await store.release(held)


async def start_and_use(store: SessionStore) -> None:
    await store.start(lambda ending: None)
    await use(store)


async def use(store: SessionStore) -> None:
    """Uses a started store and closes it."""
    try:
        for row in await store.list_owned(OWNER, (0.0, ""), 10):
            store.durable_position(row)
            await store.read(OWNER, row.id)
            await _turn(store, OWNER, row.id)
        await _turn(store, OWNER, "one")
        await store.recall(OWNER, "request")
        await store.create([Birth("new", OWNER, 3, 0, {"at/000000000000": b""})], Deed(OWNER, "new", "", ()))
        await store.num_live()
        await store.sweep(10)
    finally:
        await store.close()


def _spoil_records(dice: random.Random, whole: bytes) -> bytes:
    """Spoils heads and parts of records with matching checksums; or any place."""
    if dice.random() < 0.3:
        return mutate(whole, dice)
    magic, at, records = whole[:5], 5, []
    while at < len(whole):
        length, _ = _RECORD.unpack_from(whole, at)
        record = whole[at + _RECORD.size : at + _RECORD.size + length]
        records.append(_spoil_record(dice, record) if dice.random() < 0.5 else record)
        at += _RECORD.size + length
    if dice.random() < 0.1:
        records.append(dice.choice(records))
    return magic + b"".join(_RECORD.pack(len(one), zlib.crc32(one)) + one for one in records)


def _spoil_record(dice: random.Random, record: bytes) -> bytes:
    head, _, rest = record.partition(b"\n")
    match dice.randrange(8):
        case 0:
            return mutate(record, dice)
        case 1:
            return json.dumps(nested(dice.choice((10, 900)))).encode() + b"\n" + rest
        case 2:
            return b"[" * dice.choice((10, 100_000)) + b"\n" + rest
        case _:
            return json.dumps(mutate_json(json.loads(head), dice)).encode() + b"\n" + rest


def _spoil_database(dice: random.Random, whole: bytes, path: Path) -> bytes:
    """Damages pages, or makes a valid file with content that no server writes."""
    if dice.random() < 0.6:
        return mutate(whole, dice)
    clear(path)
    path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for _ in range(dice.choice((1, 1, 3))):
            with contextlib.suppress(sqlite3.Error):
                connection.execute(*_strange_change(dice, connection))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def _strange_change(dice: random.Random, connection: sqlite3.Connection) -> tuple[str, tuple[object, ...]]:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = dice.choice(sorted(tables))
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    _, name, kind, *_ = dice.choice(columns)
    match dice.randrange(8):
        case 0:
            return f"DELETE FROM {table}", ()
        case 1:
            return f"ALTER TABLE {table} RENAME COLUMN {name} TO strange", ()
        case 2:
            return f"PRAGMA user_version = {dice.choice((0, 1, 2, 3, 99))}", ()
        case _:
            return f"UPDATE {table} SET {name} = ?", (_strange_content(dice, kind),)


def _strange_content(dice: random.Random, kind: str) -> object:
    match kind:
        case "INTEGER":
            return dice.choice(LONG_INTEGERS)
        case "REAL":
            return dice.choice((0.0, -1.0, 1e308, float("inf"), -float("inf"), 1.8e9))
        case "BLOB":
            return dice.randbytes(dice.choice((0, 1, 500)))
        case _:
            return dice.choice((*TEXTS, "[]", "{", "null", "[1]", '[["x"]]', b"\xff\xfe"))


def clear(path: Path) -> None:
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
