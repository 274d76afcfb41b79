"""A vocabulary is learned from a text, restores it, and counts WikiText-2 as papers do."""

import os
from pathlib import Path

import numpy as np
import pytest

from carousel.bundle.tokenizer import TokenizerKind
from carousel_training.errors import CorpusError
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import CHUNK_CHARACTERS, encode_text, learn_vocabulary

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
WEIRD = f"naïve café\r\n\tΩ≈ç 漢字 {FAMILY} e\u0301 \u202eright\u202c\x00\x7f \ufeff\n\n  two  spaces \n"
LOSSLESS = [TokenizerKind.BYTE, TokenizerKind.CHARACTER, TokenizerKind.BPE]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_weird_text_comes_back_whole(kind: TokenizerKind) -> None:
    """Encoding and decoding returns every character of a text whose characters are known."""
    tokenizer = learn_vocabulary(WEIRD, VocabularySettings(kind=kind, size=300))
    assert tokenizer.decode(encode_text(tokenizer, WEIRD)) == WEIRD


@pytest.mark.parametrize("kind", [TokenizerKind.BYTE, TokenizerKind.BPE])
def test_bytes_never_run_out(kind: TokenizerKind) -> None:
    """A byte-level vocabulary from English encodes any text."""
    tokenizer = learn_vocabulary("plain old English text. " * 20, VocabularySettings(kind=kind, size=280))
    assert tokenizer.decode(tokenizer.encode(WEIRD)) == WEIRD


def test_byte_ids_are_the_bytes() -> None:
    """The byte vocabulary has 256 ids and encoding is UTF-8."""
    tokenizer = learn_vocabulary("", VocabularySettings(kind=TokenizerKind.BYTE))
    assert tokenizer.size == 256
    assert tokenizer.encode(WEIRD) == list(WEIRD.encode())
    assert tokenizer.token_bytes(0xE9) == b"\xe9"


def test_characters_are_code_points_and_strangers_are_unknown() -> None:
    """Ids follow code points after <unk>, a combining mark is a character, and unknown characters share an id."""
    tokenizer = learn_vocabulary("e\u0301ab\n", VocabularySettings(kind=TokenizerKind.CHARACTER))
    assert tokenizer.encode("\nabe\u0301") == [1, 2, 3, 4, 5]
    assert tokenizer.encode("zΩ") == [0, 0]
    assert tokenizer.decode([0]) == "\N{REPLACEMENT CHARACTER}"


def test_words_are_counted_with_an_end_at_every_line() -> None:
    """A blank line is one <eos>, white space is no token, and <unk> and unknown words share an id."""
    tokenizer = learn_vocabulary(" \n = a b = \n\n a <unk>\n", VocabularySettings(kind=TokenizerKind.WORD))
    unknown, end, equals, a, b = (tokenizer.encode(word)[0] for word in ("<unk>", "\n", "=", "a", "b"))
    assert tokenizer.size == 5
    assert tokenizer.start_id == end
    assert tokenizer.encode(" \n = a b = \n\n a zebra\n") == [end, equals, a, b, equals, end, end, a, unknown, end]
    assert tokenizer.decode([a, b, end, a]) == "a b \na "


def test_rare_words_can_be_left_out() -> None:
    """max_words keeps the most frequent words, min_count the words that occur often enough."""
    text = "a a a b b c\n"
    few = learn_vocabulary(text, VocabularySettings(kind=TokenizerKind.WORD, max_words=4))
    often = learn_vocabulary(text, VocabularySettings(kind=TokenizerKind.WORD, min_count=3))
    assert (few.size, often.size) == (4, 3)
    assert few.encode("c") == few.encode("<unk>")
    assert often.encode("b") == often.encode("<unk>")


def test_words_are_bounded_unless_asked_for() -> None:
    """The default is 20,000 words, with unknown and end of line. A larger number keeps more."""
    text = "".join(f"w{number} " for number in range(30_000))
    assert learn_vocabulary(text, VocabularySettings(kind=TokenizerKind.WORD)).size == 20_000
    assert learn_vocabulary(text, VocabularySettings(kind=TokenizerKind.WORD, max_words=99_999)).size == 30_002


def test_byte_pairs_learn_the_same_from_the_same(tmp_path: Path) -> None:
    """Learning twice gives the same file, of the set size."""
    text = "".join(f"round and round goes number {n}, and nothing rounds it down.\n" for n in range(200))
    settings = VocabularySettings(kind=TokenizerKind.BPE, size=320)
    for name in ("a.json", "b.json"):
        tokenizer = learn_vocabulary(text, settings)
        assert tokenizer.size == 320
        tokenizer.save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert len(tokenizer.encode(text)) < len(text) / 3


@pytest.mark.parametrize("line_end", ["\n", ""])
def test_chunks_do_not_show(line_end: str) -> None:
    """A text longer than a chunk has the same ids as in one piece, with and without line ends."""
    text = (f"some words to fill a line with{line_end}" * (CHUNK_CHARACTERS // 20))[: CHUNK_CHARACTERS * 3 // 2]
    for kind in (TokenizerKind.BYTE, TokenizerKind.CHARACTER):
        tokenizer = learn_vocabulary(text, VocabularySettings(kind=kind))
        np.testing.assert_array_equal(encode_text(tokenizer, text), tokenizer.encode(text))


def test_a_text_without_tokens_is_refused() -> None:
    """A text of white space has no words and is refused."""
    tokenizer = learn_vocabulary("a b", VocabularySettings(kind=TokenizerKind.WORD))
    with pytest.raises(CorpusError, match="no tokens in a word vocabulary"):
        encode_text(tokenizer, "   ")


def test_wikitext_is_counted_as_the_papers_do() -> None:
    """WikiText-2 has 33,278 types and 2,088,628 / 217,646 / 245,569 tokens."""
    folder = Path(os.environ.get("CAROUSEL_TEST_DATA", "")) / "wikitext-2"
    if "CAROUSEL_TEST_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("CAROUSEL_TEST_DATA names no folder with wikitext-2/{train,valid,test}.txt")
    texts = [(folder / f"{part}.txt").read_text(encoding="utf-8") for part in ("train", "valid", "test")]
    tokenizer = learn_vocabulary(texts[0], VocabularySettings(kind=TokenizerKind.WORD, max_words=99_999))
    assert tokenizer.size == 33_278
    assert [len(encode_text(tokenizer, text)) for text in texts] == [2_088_628, 217_646, 245_569]
