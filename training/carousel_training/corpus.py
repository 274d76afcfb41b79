"""The text of a run: read from files, folders or this package's own tales, and split the same way every time.

It knows no tokens. Text is kept as it is in the files, line ends included; several files follow one another.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from carousel_training.errors import CorpusError
from carousel_training.repeats import drop_repeats
from carousel_training.settings import CorpusSettings

TALES = Path(__file__).parent / "texts" / "grimm.txt"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training, validation and test text; `source` says for people where it is from."""

    source: str
    train: str
    valid: str
    test: str

    @property
    def num_bytes(self) -> int:
        return sum(len(part.encode()) for part in (self.train, self.valid, self.test))

    @property
    def digest(self) -> str:
        """sha256 over the three parts, each under its length, so that moving a split changes it."""
        total = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            content = part.encode()
            total.update(len(content).to_bytes(8, "big") + content)
        return total.hexdigest()

    def __repr__(self) -> str:
        return f"Corpus({self.source}: {len(self.train)} + {len(self.valid)} + {len(self.test)} characters)"


def read_corpus(settings: CorpusSettings) -> Corpus:
    """Raises CorpusError naming the file that is missing, unreadable, empty or not UTF-8."""
    if settings.train:
        parts = [_read_all(paths, settings.pattern) for paths in (settings.train, settings.valid, settings.test)]
        return Corpus(_names(settings.train), *parts)
    files = settings.text or (TALES,)
    text = _read_all(files, settings.pattern)
    return split_text(_names(files), drop_repeats(text) if settings.drop_repeats else text, settings)


def split_text(source: str, text: str, settings: CorpusSettings) -> Corpus:
    """Cut at fixed fractions of the characters: training first, then validation, then test."""
    valid_start = round(len(text) * (1.0 - settings.valid_fraction - settings.test_fraction))
    test_start = round(len(text) * (1.0 - settings.test_fraction))
    corpus = Corpus(source, text[:valid_start], text[valid_start:test_start], text[test_start:])
    if not corpus.train or not corpus.valid:
        raise CorpusError(f"{source} is too short to split: it has {len(text)} characters")
    return corpus


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name or str(path) for path in paths)


def _read_all(paths: Iterable[Path], pattern: str) -> str:
    return "".join(_read(file) for path in paths for file in _files(path, pattern))


def _files(path: Path, pattern: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.glob(pattern) if file.is_file())
    if not found:
        raise CorpusError(f"the folder {path} holds no file that matches {pattern}")
    return found


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    if not content:
        raise CorpusError(f"{path} is empty")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from error
