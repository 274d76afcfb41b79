"""Files of sessions, a memory store's and an SQLite store's, with accidents in any place."""

import contextlib
import json
import random
import struct
import zlib
from pathlib import Path

from carousel.state.memory_file import read_sessions, write_sessions
from carousel.state.sqlite_file import open_file
from carousel.state.store import Row
from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.mutations import mutate, mutate_json, nested
from trials.fuzz.state_inputs import draw_snapshot, make_codec

_RECORD = struct.Struct("<II")


def memory_files(place: Place) -> Decoder:
    path = place.directory / "sessions.mem"
    codec = make_codec(place.bundle.manifest)
    snapshot = codec.encode(draw_snapshot(random.Random(0), place.bundle.manifest))
    row = Row("some-session", "owner", 7, 0, 5, 1.7e9, 1.7e9, 4e9)
    write_sessions(path, [(row, {"at/000000000000": snapshot}), (row, {})])
    whole = path.read_bytes()

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        read_sessions(path)

    return Decoder(lambda dice: _spoil_records(dice, whole), attempt)


def _spoil_records(dice: random.Random, whole: bytes) -> bytes:
    """Accidents in the heads and the parts of records, whose checksums fit again; or anywhere."""
    if dice.random() < 0.3:
        return mutate(whole, dice)
    magic, at, records = whole[:5], 5, []
    while at < len(whole):
        length, _ = _RECORD.unpack_from(whole, at)
        records.append(_spoil_record(dice, whole[at + _RECORD.size : at + _RECORD.size + length]))
        at += _RECORD.size + length
    return magic + b"".join(_RECORD.pack(len(one), zlib.crc32(one)) + one for one in records)


def _spoil_record(dice: random.Random, record: bytes) -> bytes:
    head, _, rest = record.partition(b"\n")
    match dice.randrange(6):
        case 0:
            return mutate(record, dice)
        case 1:
            return record
        case 2:
            return json.dumps(nested(dice.choice((10, 900)))).encode() + b"\n" + rest
        case 3:
            return b"[" * dice.choice((10, 100_000)) + b"\n" + rest
        case _:
            return json.dumps(mutate_json(json.loads(head), dice)).encode() + b"\n" + rest


def sqlite_files(place: Place) -> Decoder:
    path = place.directory / "sessions.db"
    for connection in open_file(path):
        connection.close()
    whole = path.read_bytes()

    def attempt(content: bytes) -> None:
        _replace(path, content)
        with contextlib.ExitStack() as stack:
            for connection in open_file(path):
                stack.callback(connection.close)

    return Decoder(lambda dice: mutate(whole, dice), attempt)


def _replace(path: Path, content: bytes) -> None:
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    path.write_bytes(content)
