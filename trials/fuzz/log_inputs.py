"""Logs of turns that a crash left in an SQLite store's file: intact, in strange orders, of missing sessions, and with
accidents in any place; then full use of the store after recovery."""

import asyncio
import contextlib
import random
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.file_inputs import CAPACITY, LIFETIMES, OWNER, clear, fill, now, use
from trials.fuzz.mutations import hostile_integer, hostile_text, mutate
from trials.fuzz.state_inputs import draw_snapshot, make_codec, spoil_snapshot

from carousel.bundle.manifest import Manifest
from carousel.sessions.ledger import Ledger, Retention
from carousel.sessions.recovery import recover
from carousel.sessions.resident import LoggedTurn, Plain
from carousel.sessions.turn_log import write_entry
from carousel.state import sqlite_rows
from carousel.state.sqlite_store import SqliteStore
from carousel.state.store import Ending
from carousel.state.write_ahead import WriteAhead

_LENGTH = struct.Struct("<I")
_REVISIONS = {("a", 1), ("b", 0)}  # as `fill` leaves them
_LEDGER = Ledger(Retention(max_turns=4, max_answers=2, max_answer_bytes=10_000, max_request_ids=256))


def turn_logs(place: Place) -> Decoder:
    path = place.directory / "sessions.db"
    clear(path)
    asyncio.run(fill(SqliteStore(path, CAPACITY, LIFETIMES, clock=now), place))
    whole, manifest = path.read_bytes(), place.bundle.manifest

    def attempt(content: bytes) -> None:
        clear(path)
        path.write_bytes(whole)
        _insert(path, content)
        asyncio.run(_recover_and_use(path))

    return Decoder(lambda dice: _draw_log(dice, manifest), attempt)


async def _recover_and_use(path: Path) -> None:
    store = WriteAhead(SqliteStore(path, CAPACITY, LIFETIMES, clock=now))
    await store.start(_hear)
    try:
        await recover(store, _LEDGER, now())
    except BaseException:
        await store.close()
        raise
    await use(store)


def _hear(ending: Ending) -> None:
    """Does nothing: no session is held."""


def _draw_log(dice: random.Random, manifest: Manifest) -> bytes:
    """Returns entries, each after its length."""
    entries = [write_entry(turns) for turns in _draw_turns(dice, manifest)]
    if dice.random() < 0.3:
        dice.shuffle(entries)
    if dice.random() < 0.5:
        at = dice.randrange(len(entries))
        entries[at] = mutate(entries[at], dice) if dice.random() < 0.8 else b""
    return b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)


def _draw_turns(dice: random.Random, manifest: Manifest) -> Iterator[list[LoggedTurn]]:
    """Yields each entry's turns, which continue one another, or nearly."""
    numbers = dict.fromkeys(_REVISIONS, 0)
    for _ in range(dice.randrange(1, 6)):
        turns = []
        for name, revision in dice.sample(sorted(_REVISIONS), dice.choice((1, 2))):
            numbers[name, revision] += 1
            turn = _draw_turn(dice, manifest, name, revision, numbers[name, revision])
            turns.append(turn if dice.random() < 0.8 else _make_strange(dice, turn))
        yield turns


def _draw_turn(dice: random.Random, manifest: Manifest, name: str, revision: int, number: int) -> LoggedTurn:
    snapshot = make_codec(manifest).encode(draw_snapshot(dice, manifest))
    count = dice.choice((0, 1, 10))
    request_id = dice.choice(("", f"request {dice.randrange(4)}"))
    ids, values = tuple(range(count)), tuple(-float(one) for one in range(count))
    incarnation = "ab".index(name)
    plain = Plain(dice.randrange(99), count, request_id)
    return LoggedTurn(OWNER, name, incarnation, revision, number, now() - 1, snapshot, plain, ids, values)


def _make_strange(dice: random.Random, turn: LoggedTurn) -> LoggedTurn:
    """Changes one thing so that no server would write it."""
    match dice.randrange(8):
        case 0:
            return turn._replace(owner=hostile_text(dice))
        case 1:
            return turn._replace(session_id=hostile_text(dice))
        case 2:
            return turn._replace(incarnation=hostile_integer(dice))
        case 3:
            return turn._replace(revision=hostile_integer(dice))
        case 4:
            return turn._replace(number=hostile_integer(dice, 0, 2**32 - 1))
        case 5:
            return turn._replace(at=dice.choice((0.0, 1e308, float("inf"), float("-inf"), float("nan"))))
        case 6:
            return turn._replace(plain=replace(turn.plain, request_id=hostile_text(dice)))
        case _:
            return turn._replace(snapshot=spoil_snapshot(dice, turn.snapshot))


def _insert(path: Path, content: bytes) -> None:
    at = 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for number in range(1, 1000):
            if at >= len(content):
                break
            (length,) = _LENGTH.unpack_from(content, at)
            at += _LENGTH.size
            sqlite_rows.insert_entry(connection, number, content[at : at + length])
            at += length
        connection.commit()
