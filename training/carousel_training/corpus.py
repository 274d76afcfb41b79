"""The text of a run: reads files, folders or this package's own tales, and splits them the same way every time.

This module knows no tokens. It keeps text as it is in the files, line ends included, and joins several files in order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carousel_training.errors import CorpusError
from carousel_training.repeats import drop_repeats
from carousel_training.settings import CorpusSettings
from carousel_training.text_files import Reading, TextReader

TALES = Path(__file__).parent / "texts" / "grimm.txt"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training, validation and test text. `source` names their origin for users, `reading` says what was read."""

    source: str
    train: str
    valid: str
    test: str
    reading: Reading = Reading()

    @property
    def num_bytes(self) -> int:
        return sum(len(part.encode()) for part in (self.train, self.valid, self.test))

    @property
    def digest(self) -> str:
        """sha256 over the three parts, each after its length, so that moving a split changes the digest."""
        total = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            content = part.encode()
            total.update(len(content).to_bytes(8, "big") + content)
        return total.hexdigest()

    def __repr__(self) -> str:
        return f"Corpus({self.source}: {len(self.train)} + {len(self.valid)} + {len(self.test)} characters)"


def read_corpus(settings: CorpusSettings) -> Corpus:
    """Raises CorpusError with the name of the file that is missing, unreadable, empty or not UTF-8."""
    reader = TextReader(settings.pattern)
    if settings.train:
        train, valid, test = (reader.read(paths) for paths in (settings.train, settings.valid, settings.test))
        return Corpus(_names(settings.train), train, valid, test, reader.reading)
    files = settings.text or (TALES,)
    text = reader.read(files)
    corpus = split_text(_names(files), drop_repeats(text) if settings.drop_repeats else text, settings)
    return replace(corpus, reading=reader.reading)


def split_text(source: str, text: str, settings: CorpusSettings) -> Corpus:
    """Cuts at fixed fractions of the characters: training first, then validation, then test."""
    valid_start = round(len(text) * (1.0 - settings.valid_fraction - settings.test_fraction))
    test_start = round(len(text) * (1.0 - settings.test_fraction))
    corpus = Corpus(source, text[:valid_start], text[valid_start:test_start], text[test_start:])
    if not corpus.train or not corpus.valid:
        raise CorpusError(f"{source} is too short to split: it has {len(text)} characters")
    return corpus


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name or str(path) for path in paths)
