"""Chooses the files that a run reads: a named file as it is, and from a folder all that looks like text.

A named file must exist and be text. In a folder, the reader skips and counts files that are not text, empty or not
UTF-8.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from carousel_training.errors import CorpusError

KINDS = ".txt, .md, .py and .log"
_IS_TEXT = re.compile(r"\.(txt|md|py|log(\.\d+)?)$", re.IGNORECASE)  # app.log.1: a rotated log
_NUM_NAMED = 3  # the number of skipped files listed by name


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read. `other_kinds` counts skipped files by ending, `unreadable` names those that are not UTF-8."""

    num_read: int = 0
    num_empty: int = 0
    other_kinds: tuple[tuple[str, int], ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def num_skipped(self) -> int:
        return self.num_empty + len(self.unreadable) + sum(count for _, count in self.other_kinds)

    def describe(self) -> str:
        """Describes the reading for users. Returns "" for a single file."""
        if self.num_read == 1 and not self.num_skipped:
            return ""
        reasons = list(self._reasons())
        skipped = f"; skipped {self.num_skipped:,}: {', '.join(reasons)}" if reasons else "; skipped none"
        return f"read {self.num_read:,} file{'' if self.num_read == 1 else 's'}{skipped}"

    def _reasons(self) -> Iterator[str]:
        if self.other_kinds:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.other_kinds)
            yield f"other kinds ({kinds})"
        if self.num_empty:
            yield f"{self.num_empty:,} empty"
        if self.unreadable:
            more = ", ..." if len(self.unreadable) > _NUM_NAMED else ""
            yield f"{len(self.unreadable):,} not UTF-8 ({', '.join(self.unreadable[:_NUM_NAMED])}{more})"


class TextReader:
    """Reads files and folders in order. `reading` describes what was found so far."""

    def __init__(self, pattern: str | None) -> None:
        """`pattern` chooses a folder's files in place of their endings."""
        self._pattern = pattern
        self._num_read = 0
        self._num_empty = 0
        self._other_kinds: Counter[str] = Counter()
        self._unreadable: list[str] = []

    @property
    def reading(self) -> Reading:
        kinds = sorted(self._other_kinds.items(), key=lambda item: (-item[1], item[0]))
        return Reading(self._num_read, self._num_empty, tuple(kinds), tuple(self._unreadable))

    def read(self, paths: Iterable[Path]) -> str:
        """Returns the joined texts. Raises CorpusError with the name of the file or folder at fault."""
        return "".join(text for path in paths for text in self._read_path(path))

    def _read_path(self, path: Path) -> Iterator[str]:
        if not path.is_dir():
            yield _read(path)
            self._num_read += 1
            return
        num_before = self._num_read
        for file in sorted(file for file in path.glob(self._pattern or "**/*") if file.is_file()):
            yield from self._read_member(file, path)
        if self._num_read == num_before:
            raise CorpusError(f"the folder {path} holds no text: {self._explain_nothing()}")

    def _read_member(self, file: Path, folder: Path) -> Iterator[str]:
        """Reads a file of a folder. Skips hidden files and folders unless a pattern asks for them."""
        name = file.relative_to(folder)
        if self._pattern is None and any(part.startswith(".") for part in name.parts):
            return
        if self._pattern is None and not _IS_TEXT.search(file.name):
            self._other_kinds[file.suffix.lower() or "no ending"] += 1
            return
        content = _read_bytes(file)
        if not content:
            self._num_empty += 1
            return
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            self._unreadable.append(str(name))
            return
        self._num_read += 1
        yield text

    def _explain_nothing(self) -> str:
        wanted = f"no file matches {self._pattern}" if self._pattern else f"it is sought in {KINDS} files"
        skipped = ", ".join(self.reading._reasons())
        return f"{wanted}; skipped {skipped}" if skipped else wanted


def _read(file: Path) -> str:
    content = _read_bytes(file)
    if not content:
        raise CorpusError(f"{file} is empty")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from error


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {file}: {error.strerror or error}") from error
