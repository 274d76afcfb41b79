"""A file that holds all sessions of a memory store from a drain to the next start.

    "CRSM" version u8, then for each session: length u32, crc32 u32, a line of JSON (row and part sizes), the parts

It is written whole or not at all, and gone once it was read: what is read twice would turn acknowledged turns back.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from carousel.errors import StoreInvalid
from carousel.state.store import Parts, Row

_MAGIC = b"CRSM\x01"
_RECORD = struct.Struct("<II")


def write_sessions(path: Path, sessions: Iterable[tuple[Row, Parts]]) -> None:
    """Atomically, and on disk when it returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(_MAGIC)
            for row, parts in sessions:
                sizes = {key: len(part) for key, part in parts.items()}
                head = json.dumps({"row": asdict(row), "parts": sizes}).encode() + b"\n"
                content = b"".join((head, *parts.values()))
                file.write(_RECORD.pack(len(content), zlib.crc32(content)) + content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_sessions(path: Path) -> list[tuple[Row, Parts]]:
    """All of them. Raises StoreInvalid naming the file; it is left as it is."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreInvalid(f"{path}: {error.strerror or error}") from error
    if not content.startswith(_MAGIC):
        raise StoreInvalid(f"{path} is not a file of sessions")
    try:
        return list(_split(content))
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise StoreInvalid(f"{path} is damaged: {error}") from error


def _split(content: bytes) -> Iterator[tuple[Row, Parts]]:
    at = len(_MAGIC)
    while at < len(content):
        length, check = _RECORD.unpack_from(content, at)
        record = content[at + _RECORD.size : at + _RECORD.size + length]
        if len(record) != length or zlib.crc32(record) != check:
            raise ValueError("a record is cut off or altered")
        head, _, rest = record.partition(b"\n")
        facts = json.loads(head)
        parts, start = {}, 0
        for key, size in facts["parts"].items():
            parts[key] = rest[start : start + size]
            start += size
        yield Row(**facts["row"]), parts
        at += _RECORD.size + length
