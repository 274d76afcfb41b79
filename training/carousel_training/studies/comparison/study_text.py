"""The text of a comparison: without repeats, encoded once, its parts in separate files that trainings load.

The open parts and the test part have separate calls, so that only a final can load the test part.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel.bundle.tokenizer import Tokenizer, TokenizerKind
from carousel_training.corpus import Corpus, read_corpus
from carousel_training.errors import CorpusError
from carousel_training.repeats import drop_known, drop_repeats, share_repeated
from carousel_training.settings import Settings
from carousel_training.studies.results import make_directory, save_figures
from carousel_training.vocabulary import encode_text, learn_vocabulary

OFFICIAL = ("train.txt", "valid.txt", "test.txt")
TRAIN, VALID, TEST = "train", "valid", "test"
FACTS_FILE = "text.json"


@dataclass(frozen=True, slots=True)
class TextFacts:
    """The text's origin and encoding. `raw_sha256` covers the parts as they are in the files, `sha256` the cleaned
    parts.

    Counts are by part; `share_repeated` is the share of a held-out part that stood in the parts before. A text of
    nothing but repeats stays as it is, and is not `is_deduplicated`.
    """

    source: str
    raw_sha256: str
    sha256: str
    is_deduplicated: bool
    vocabulary_size: int
    vocabulary: Mapping[str, Any]
    num_characters: Mapping[str, int]
    num_tokens: Mapping[str, int]
    num_dropped: Mapping[str, int]
    share_repeated: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def with_official_split(settings: Settings) -> Settings:
    """Splits a folder with train.txt, valid.txt and test.txt as its publishers did, other text by fractions."""
    corpus = settings.corpus
    if len(corpus.text) != 1 or not all((corpus.text[0] / name).is_file() for name in OFFICIAL):
        return settings
    parts = {part: (corpus.text[0] / name,) for part, name in zip((TRAIN, VALID, TEST), OFFICIAL, strict=True)}
    return settings.model_copy(update={"corpus": corpus.model_copy(update={"text": (), **parts})})


def prepare_text(settings: Settings, directory: Path) -> TextFacts:
    """Reads, cleans and encodes, and writes the parts to `directory`. Raises CorpusError."""
    raw = read_corpus(settings.corpus)
    if not raw.test:
        raise CorpusError(f"{raw.source} has no test part, and a comparison needs one: set corpus.test_fraction")
    known = _read_facts(directory / FACTS_FILE)
    if known is not None and (known.raw_sha256, known.vocabulary) == (raw.digest, _vocabulary(settings)):
        return known
    try:
        text = clean(raw)
    except CorpusError:
        text = raw
    return _write(raw, text, settings, directory)


def clean(raw: Corpus) -> Corpus:
    """Removes repeated lines within a part, the training part from the others, and validation from the test part.

    Raises CorpusError if nothing would be left.
    """
    train = drop_repeats(raw.train)
    valid = drop_known(drop_repeats(raw.valid), train)
    test = drop_known(drop_repeats(raw.test), train + valid)
    if not (train and valid and test):
        raise CorpusError(f"a part of {raw.source} has nothing but repeats of the other parts")
    return Corpus(raw.source, train, valid, test)


@lru_cache(maxsize=1)
def load_open_parts(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids_N of training and validation. They stay in memory: a worker runs one training after another."""
    return _load(directory, TRAIN), _load(directory, VALID)


def load_test_part(directory: Path) -> torch.Tensor:
    """Returns ids_N of the test part, for finals alone."""
    return _load(directory, TEST)


@lru_cache(maxsize=1)
def load_tokenizer(directory: Path) -> Tokenizer:
    kind = load_facts(directory).vocabulary["kind"]
    return Tokenizer.parse(TokenizerKind(kind), (directory / TOKENIZER_FILE).read_bytes())


def load_facts(directory: Path) -> TextFacts:
    """Returns the facts of a prepared text."""
    facts = _read_facts(directory / FACTS_FILE)
    if facts is None:
        raise CorpusError(f"{directory} holds no prepared text")
    return facts


def _write(raw: Corpus, text: Corpus, settings: Settings, directory: Path) -> TextFacts:
    make_directory(directory)
    tokenizer = learn_vocabulary(text.train, settings.vocabulary)
    if tokenizer.size > np.iinfo(np.uint16).max:
        raise CorpusError(f"a comparison takes vocabularies of up to 65,535 tokens, not {tokenizer.size:,}")
    (directory / FACTS_FILE).unlink(missing_ok=True)
    tokenizer.save(directory / TOKENIZER_FILE)
    before, after = _parts(raw), _parts(text)
    ids = {part: encode_text(tokenizer, content).astype(np.uint16) for part, content in after.items()}
    for part, ids_N in ids.items():
        np.save(directory / f"{part}.npy", ids_N)
    facts = TextFacts(
        source=_name(raw, settings),
        raw_sha256=raw.digest,
        sha256=text.digest,
        is_deduplicated=text is not raw,
        vocabulary_size=tokenizer.size,
        vocabulary=_vocabulary(settings),
        num_characters={part: len(content) for part, content in after.items()},
        num_tokens={part: len(ids_N) for part, ids_N in ids.items()},
        num_dropped={part: len(before[part]) - len(content) for part, content in after.items()},
        share_repeated=_shares(raw),
    )
    save_figures(directory / FACTS_FILE, facts.as_json())
    return facts


def _name(raw: Corpus, settings: Settings) -> str:
    """Returns the name of the parts' common folder, if they have one, for users."""
    folders = {path.parent for part in (TRAIN, VALID, TEST) for path in getattr(settings.corpus, part)}
    return folders.pop().resolve().name if len(folders) == 1 else raw.source


def _shares(raw: Corpus) -> dict[str, float]:
    return {VALID: share_repeated(raw.train, raw.valid), TEST: share_repeated(raw.train + raw.valid, raw.test)}


def _vocabulary(settings: Settings) -> dict[str, Any]:
    return settings.vocabulary.model_dump(mode="json")


def _parts(corpus: Corpus) -> dict[str, str]:
    return {TRAIN: corpus.train, VALID: corpus.valid, TEST: corpus.test}


def _load(directory: Path, part: str) -> torch.Tensor:
    return torch.from_numpy(np.load(directory / f"{part}.npy").astype(np.int64))


def _read_facts(path: Path) -> TextFacts | None:
    try:
        return TextFacts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
