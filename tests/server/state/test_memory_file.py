"""The file of sleeping sessions is whole or not there, and nothing that is not one is taken for it."""

from pathlib import Path

import pytest
from tests.server.state.conftest import make_row

from carousel.errors import StoreInvalid
from carousel.state.memory_file import read_memory, write_memory


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Rows and parts come back as they were, in order."""
    sessions = [
        (make_row(name), {"at/0": bytes([number]) * number, "mark/ä": b""}) for number, name in enumerate("abc")
    ]
    write_memory(tmp_path / "file", sessions)
    assert read_memory(tmp_path / "file") == sessions


def test_no_file_is_no_sessions(tmp_path: Path) -> None:
    """A first start finds nothing."""
    assert read_memory(tmp_path / "file") == []


@pytest.mark.parametrize("content", [b"", b"something else", b"CRSM\x02"])
def test_another_file_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    """The error names it, and not a byte of it changes."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(StoreInvalid, match=str(file)):
        read_memory(file)
    assert file.read_bytes() == content


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    """Damage anywhere behind the first bytes is told, never read as sessions."""
    file = tmp_path / "file"
    write_memory(file, [(make_row("a"), {"at/0": b"state"})])
    whole = file.read_bytes()
    for at in range(5, len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreInvalid):
            read_memory(file)
        if at > 5:
            file.write_bytes(whole[:at])
            with pytest.raises(StoreInvalid):
                read_memory(file)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An error in between leaves what was there, and no draft beside it."""
    file = tmp_path / "file"
    write_memory(file, [(make_row("a"), {})])
    before = file.read_bytes()
    with pytest.raises(AttributeError):
        write_memory(file, [(make_row("b"), {}), (make_row("c"), None)])  # type: ignore[list-item]
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
