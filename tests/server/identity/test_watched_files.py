"""Files that change are read again; a bad content never takes the place of a good one."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.certificates import replace

from carousel.errors import SettingsInvalid
from carousel.identity.watched_files import WatchedFiles

Attempts = list[tuple[str, bool]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("1")
    return path


@pytest.fixture
def attempts() -> Attempts:
    return []


def watch(path: Path, attempts: Attempts, read: Callable[[], int] | None = None) -> WatchedFiles[int]:
    return WatchedFiles(
        "numbers",
        [path],
        read or (lambda: int(path.read_text())),
        lambda name, is_good: attempts.append((name, is_good)),
    )


def test_a_change_is_read_and_counted_once(path: Path, attempts: Attempts) -> None:
    """What did not change is not read again."""
    files = watch(path, attempts)
    assert files.current == 1
    assert not files.look()
    replace(path, b"2")
    assert files.look()
    assert not files.look()
    assert (files.current, attempts) == (2, [("numbers", True)])


def test_other_rights_are_a_change(path: Path, attempts: Attempts) -> None:
    """A file that could not be read is tried again when its rights are put right, though its content is the same."""
    files = watch(path, attempts)
    path.chmod(0o600)
    assert files.look()
    assert not files.look()
    assert attempts == [("numbers", True)]


def test_a_bad_content_is_refused_once(path: Path, attempts: Attempts) -> None:
    """The content from before stays, and the next good one takes its place."""
    files = watch(path, attempts)
    replace(path, b"two")
    assert not files.look()
    assert not files.look()
    assert (files.current, attempts) == (1, [("numbers", False)])
    replace(path, b"3")
    assert files.look()
    assert (files.current, attempts) == (3, [("numbers", False), ("numbers", True)])


def test_a_file_that_is_gone_keeps_its_content(path: Path, attempts: Attempts) -> None:
    """It is no attempt: many programs replace a file by removing it first."""
    files = watch(path, attempts)
    path.unlink()
    assert not files.look()
    assert (files.current, attempts) == (1, [])
    path.write_text("4")
    assert files.look()
    assert files.current == 4


def test_a_file_that_stays_away_is_told_once(path: Path, attempts: Attempts) -> None:
    """And again when it has been there meanwhile."""
    files = watch(path, attempts)
    for content in ("4", "5"):
        path.unlink()
        assert not any(files.look() for _ in range(9))
        told = len(attempts)
        assert not any(files.look() for _ in range(20))
        assert attempts[told:] == [("numbers", False)]
        path.write_text(content)
        assert files.look()
        assert files.current == int(content)


def test_what_cannot_be_read_for_a_moment_is_read_later(path: Path, attempts: Attempts) -> None:
    """A process may have too many files open, or a disk may fail once; the file itself does not change then."""
    troubles = iter([OSError(24, "Too many open files"), OSError(5, "Input/output error")])

    def read() -> int:
        if path.read_text() == "2" and (trouble := next(troubles, None)) is not None:
            raise trouble
        return int(path.read_text())

    files = watch(path, attempts, read)
    replace(path, b"2")
    assert [files.look() for _ in range(4)] == [False, False, True, False]
    assert (files.current, attempts) == (2, [("numbers", True)])


def test_a_rewrite_of_the_same_size_is_seen(path: Path, attempts: Attempts) -> None:
    """Size alone tells nothing, nor does a clock that was set back to the time of the file before."""
    files = watch(path, attempts)
    before = path.stat()
    replace(path, b"5")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.look()
    assert files.current == 5


def test_a_change_while_it_is_read_is_seen(path: Path, attempts: Attempts) -> None:
    """The marks are those from before the reading."""
    writes = iter([b"6"])

    def read() -> int:
        found = int(path.read_text())
        for content in writes:
            replace(path, content)
        return found

    files = watch(path, attempts, read)
    assert files.current == 1
    assert files.look()
    assert files.current == 6


@pytest.mark.parametrize(("content", "why"), [(b"x", "invalid literal"), (None, "numbers.txt: No such file")])
def test_at_the_start_a_bad_file_is_an_error(path: Path, attempts: Attempts, content: bytes | None, why: str) -> None:
    """It names the setting."""
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=f"^numbers: .*{why}"):
        watch(path, attempts)


async def test_watching_finds_a_change_by_itself(path: Path, attempts: Attempts) -> None:
    """And tells it, once it counts; a bad file is no change."""
    files, found, has_changed = watch(path, attempts), [], asyncio.Event()

    def note() -> None:
        found.append(files.current)
        has_changed.set()

    watching = asyncio.create_task(files.watch(note, pause_seconds=0.001))
    replace(path, b"x")
    async with asyncio.timeout(5):
        while len(attempts) < 1:
            await asyncio.sleep(0.001)
        replace(path, b"7")
        await has_changed.wait()
    assert found == [7]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
