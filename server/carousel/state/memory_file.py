"""The file that keeps a memory store's content from a drain to the next start: its sessions and recent deeds.

    "CRSM" version u8, then records: length u32, crc32 u32, a line of JSON, in a session's record followed by its parts

The line is a session's row and part sizes, or a deed and its time. Version 1 has only sessions. The file is written
atomically, and removed after it is read: reading it twice would undo acknowledged turns.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from carousel.errors import StoreInvalid
from carousel.records import record
from carousel.state.store import Deed, Parts, Row

_MAGIC = b"CRSM\x02"
_MAGICS = (b"CRSM\x01", _MAGIC)
_RECORD = struct.Struct("<II")
_Moment = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@record(frozen=True, slots=True)
class _SessionRecord:
    row: Row
    parts: dict[str, Annotated[int, Field(ge=0)]]  # their sizes


@record(frozen=True, slots=True)
class _DeedRecord:
    deed: Deed
    at: _Moment


_RECORDS: TypeAdapter[_SessionRecord | _DeedRecord] = TypeAdapter(_SessionRecord | _DeedRecord)


def write_memory(path: Path, sessions: Iterable[tuple[Row, Parts]], deeds: Iterable[tuple[float, Deed]] = ()) -> None:
    """Writes the file atomically; it is on disk when this returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(_MAGIC)
            for row, parts in sessions:
                sizes = {key: len(part) for key, part in parts.items()}
                file.write(_pack({"row": asdict(row), "parts": sizes}, *parts.values()))
            for at, deed in deeds:
                file.write(_pack({"deed": asdict(deed), "at": at}))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_memory(path: Path) -> tuple[list[tuple[Row, Parts]], list[tuple[float, Deed]]]:
    """Returns all sessions, and all deeds with their times. Raises StoreInvalid with the file's name, and leaves the
    file unchanged."""
    sessions: list[tuple[Row, Parts]] = []
    deeds: list[tuple[float, Deed]] = []
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return sessions, deeds
    except OSError as error:
        raise StoreInvalid(f"{path}: {error.strerror or error}") from error
    if not content.startswith(_MAGICS):
        raise StoreInvalid(f"{path} is not a file of sessions")
    try:
        for facts, rest in _split(content):
            found = _RECORDS.validate_json(facts, strict=True)
            if isinstance(found, _DeedRecord):
                deeds.append((found.at, found.deed))
            else:
                sessions.append((found.row, _cut(found.parts, rest)))
    except (ValueError, struct.error) as error:
        raise StoreInvalid(f"{path} is damaged: {error}") from error
    return sessions, deeds


def _pack(facts: dict[str, Any], *parts: bytes) -> bytes:
    content = b"".join((json.dumps(facts).encode(), b"\n", *parts))
    return _RECORD.pack(len(content), zlib.crc32(content)) + content


def _split(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_MAGIC)
    while at < len(content):
        length, check = _RECORD.unpack_from(content, at)
        record = content[at + _RECORD.size : at + _RECORD.size + length]
        if len(record) != length or zlib.crc32(record) != check:
            raise ValueError("a record is truncated or altered")
        head, _, rest = record.partition(b"\n")
        yield head, rest
        at += _RECORD.size + length


def _cut(sizes: dict[str, int], content: bytes) -> Parts:
    parts, start = {}, 0
    for key, size in sizes.items():
        parts[key] = content[start : start + size]
        start += size
    if start > len(content):
        raise ValueError("the parts of a session are truncated")
    return parts
