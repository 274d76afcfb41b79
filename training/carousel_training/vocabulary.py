"""Learns the tokenizer of a corpus, one function per kind. `carousel.bundle.tokenizer` uses what is learned here.

That module defines what each kind counts as a token. Learning is deterministic: equal text gives equal ids.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from carousel.bundle.tokenizer import BYTE_ALPHABET, END_OF_LINE, UNKNOWN, Tokenizer, TokenizerKind
from carousel_training.errors import CorpusError
from carousel_training.settings import VocabularySettings

CHUNK_CHARACTERS = 1 << 16  # the library keeps offsets and more for each call's whole text


def learn_vocabulary(text: str, settings: VocabularySettings) -> Tokenizer:
    """Learns a tokenizer of `settings.kind` from `text`."""
    match settings.kind:
        case TokenizerKind.BYTE:
            codec = _bytes()
        case TokenizerKind.CHARACTER:
            codec = _characters(text, settings)
        case TokenizerKind.WORD:
            codec = _words(text, settings)
        case TokenizerKind.BPE:
            codec = _byte_pairs(text, settings)
    return Tokenizer(settings.kind, codec)


def encode_text(tokenizer: Tokenizer, text: str) -> npt.NDArray[np.int64]:
    """Returns ids_N of a whole text, encoded in chunks that end at line ends. Raises CorpusError for no tokens."""
    chunks = [np.asarray(tokenizer.encode(chunk), dtype=np.int64) for chunk in _chunks(text)]
    ids_N = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64)
    if not len(ids_N):
        raise CorpusError(f"the text of {len(text)} characters has no tokens in a {tokenizer.kind} vocabulary")
    return ids_N


def _bytes() -> tokenizers.Tokenizer:
    codec = tokenizers.Tokenizer(models.BPE({letter: byte for byte, letter in enumerate(BYTE_ALPHABET)}, []))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return codec


def _characters(text: str, settings: VocabularySettings) -> tokenizers.Tokenizer:
    counts = Counter(text)
    kept = sorted(character for character, count in counts.items() if count >= settings.min_count)
    codec = tokenizers.Tokenizer(models.WordLevel(_numbered([UNKNOWN, *kept]), unk_token=UNKNOWN))
    codec.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    return codec


def _words(text: str, settings: VocabularySettings) -> tokenizers.Tokenizer:
    counts = Counter(text.replace("\n", f" {END_OF_LINE} ").split())
    del counts[UNKNOWN], counts[END_OF_LINE]
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [word for word, count in by_count if count >= settings.min_count]
    if settings.max_words is not None:
        kept = kept[: settings.max_words - 2]
    codec = tokenizers.Tokenizer(models.WordLevel(_numbered([UNKNOWN, END_OF_LINE, *kept]), unk_token=UNKNOWN))
    codec.normalizer = normalizers.Replace("\n", f" {END_OF_LINE} ")
    codec.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return codec


def _byte_pairs(text: str, settings: VocabularySettings) -> tokenizers.Tokenizer:
    codec = tokenizers.Tokenizer(models.BPE())
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.size, initial_alphabet=list(BYTE_ALPHABET), special_tokens=[], show_progress=False
    )
    codec.train_from_iterator(_chunks(text), trainer)
    return codec


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _chunks(text: str) -> Iterator[str]:
    """Yields pieces of about CHUNK_CHARACTERS. A cut follows a line end if the piece has one."""
    start = 0
    while start < len(text):
        end = start + CHUNK_CHARACTERS
        line_end = text.rfind("\n", start, end) + 1 if end < len(text) else 0
        end = line_end or end
        yield text[start:end]
        start = end
