"""The file of sleeping sessions is whole or absent, and no other file is taken for it."""

import json
import struct
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.server.state.conftest import NOW

from carousel.errors import StoreInvalid
from carousel.state.memory_file import read_memory, write_memory
from carousel.state.store import Deed, Row

DEEDS = [(NOW, Deed("ann", "r ä", "f", (("a", 2**61), ("b", 7)))), (NOW + 0.25, Deed("", "r", "", ()))]
FORMER = Path(__file__).parent / "files" / "version_1.sessions"


def _row(name: str) -> Row:
    return Row(name, "ann", 2**61 + 1, 3, 5, NOW, NOW + 1, NOW + 601)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Rows, parts and deeds come back as they were, in order."""
    sessions = [(_row(name), {"at/0": bytes([number]) * number, "mark/ä": b""}) for number, name in enumerate("abc")]
    write_memory(tmp_path / "file", sessions, DEEDS)
    assert read_memory(tmp_path / "file") == (sessions, DEEDS)


def test_a_file_of_the_version_before_is_read() -> None:
    """One that commit a313990 wrote has the sessions that it held, bit for bit, and no deeds."""
    a = Row("a", "ann", 2**61 + 1, 1, 5, 1_700_000_000.25, 1_700_000_010.5, 1_700_003_610.5)
    parts = {
        "at/000000000000": b"state 0",
        "mark/a b": bytes(range(256)),
        "empty": b"",
        "at/000000000001": b"state 1\n{}",
        "answer/000000000001/r 1": b"answer",
    }
    b = Row("b", "", 7, 0, 0, 1_700_000_000.25, 1_700_000_000.25, 1_700_003_600.25)
    found, deeds = read_memory(FORMER)
    assert (dict(sorted((row.id, (row, one)) for row, one in found)), deeds) == (
        {"a": (a, parts), "b": (b, {"at/000000000000": b""})},
        [],
    )


def test_the_versions_are_told_apart(tmp_path: Path) -> None:
    """A server of the version before refuses today's file instead of losing the deeds in it."""
    write_memory(tmp_path / "file", [])
    assert (tmp_path / "file").read_bytes() == b"CRSM\x02"
    assert FORMER.read_bytes()[:5] == b"CRSM\x01"


def test_no_file_is_no_sessions(tmp_path: Path) -> None:
    """A first start finds nothing."""
    assert read_memory(tmp_path / "file") == ([], [])


@pytest.mark.parametrize("content", [b"", b"something else", b"CRSM\x03", b"CRSM\x00", b"CRSM"])
def test_another_file_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    """The error names it, and not a byte of it changes."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(StoreInvalid, match=str(file)):
        read_memory(file)
    assert file.read_bytes() == content


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    """Damage anywhere behind the first bytes is found and never read as sessions. Only the rest shows a cut between two
    records, which the atomic write makes impossible."""
    file = tmp_path / "file"
    write_memory(file, [(_row("a"), {"at/0": b"state"})], DEEDS[:1])
    whole = file.read_bytes()
    first = 5 + 8 + int.from_bytes(whole[5:9], "little")
    for at in range(5, len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreInvalid):
            read_memory(file)
        if at not in (5, first):
            file.write_bytes(whole[:at])
            with pytest.raises(StoreInvalid):
                read_memory(file)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An error during the write leaves the old file and no draft beside it."""
    file = tmp_path / "file"
    write_memory(file, [(_row("a"), {})])
    before = file.read_bytes()
    with pytest.raises(AttributeError):
        write_memory(file, [(_row("b"), {}), (_row("c"), None)])  # type: ignore[list-item]
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "head",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b"[]",
        b'{"row": {}, "parts": {}}',
        b'{"row": [], "parts": {}}',
        json.dumps({"row": asdict(_row("a")) | {"revision": "x"}, "parts": {}}).encode(),
        json.dumps({"row": asdict(_row("a")) | {"owner": 5}, "parts": {}}).encode(),
        json.dumps({"row": asdict(_row("a")), "parts": []}).encode(),
        json.dumps({"row": asdict(_row("a")), "parts": {"at/0": "x"}}).encode(),
        json.dumps({"row": asdict(_row("a")), "parts": {"at/0": -1}}).encode(),
        json.dumps({"row": asdict(_row("a")), "parts": {"at/0": 9}}).encode(),
        b'{"deed": 5, "at": 1.0}',
        b'{"deed": {"owner": 5, "request_id": "r", "fingerprint": "", "targets": []}, "at": 1.0}',
        b'{"deed": {"owner": "a", "request_id": "r", "fingerprint": "", "targets": [["a"]]}, "at": 1.0}',
    ],
)
def test_a_whole_record_that_says_nonsense_is_refused(tmp_path: Path, head: bytes) -> None:
    """A right checksum is no proof: what is no row, no size or no deed is StoreInvalid."""
    content = head + b"\nrest"
    file = tmp_path / "file"
    file.write_bytes(b"CRSM\x02" + struct.pack("<II", len(content), zlib.crc32(content)) + content)
    with pytest.raises(StoreInvalid, match="is damaged"):
        read_memory(file)
