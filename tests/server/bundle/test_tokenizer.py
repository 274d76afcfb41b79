"""Text becomes ids and the same text again; bytes become text as soon as their characters are complete."""

import threading
import time

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import byte_tokenizer, character_tokenizer
from tokenizers import models, pre_tokenizers

from carousel.bundle.tokenizer import BYTE_ALPHABET, END_OF_LINE, TextDecoder, Tokenizer, TokenizerKind

BYTES = byte_tokenizer()
CHARACTERS = character_tokenizer("abc \nß日🌍")
MANY = "aß日🌍 né\r\n\t\0\x7f\u200d👩‍👩‍👧"


def bpe_tokenizer() -> Tokenizer:
    """Bytes and a few merges, one of which ends inside a character."""
    merges = [("h", "e"), ("he", "l"), ("Ġ", "hel"), (BYTE_ALPHABET[0xE6], BYTE_ALPHABET[0x97])]
    letters = [*BYTE_ALPHABET, *(one + other for one, other in merges)]
    codec = tokenizers.Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=merges))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return Tokenizer(TokenizerKind.BPE, codec)


def word_tokenizer(*words: str) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(("<unk>", END_OF_LINE, *words))}
    codec = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    codec.normalizer = tokenizers.normalizers.Replace("\n", f" {END_OF_LINE} ")
    codec.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(TokenizerKind.WORD, codec)


BPE = bpe_tokenizer()
WORDS = word_tokenizer("the", "cat", "日本")


@settings(deadline=None)  # a busy machine takes its time
@given(st.text())
def test_bytes_decode_to_what_was_encoded(text: str) -> None:
    """Any text survives the byte vocabulary, one id for each byte."""
    ids = BYTES.encode(text)
    assert ids == list(text.encode())
    assert BYTES.decode(ids) == text


@settings(deadline=None)  # a busy machine takes its time
@given(st.text())
def test_bpe_decodes_to_what_was_encoded(text: str) -> None:
    """Any text survives byte-level byte-pair encoding."""
    assert BPE.decode(BPE.encode(text)) == text


@settings(deadline=None)  # a busy machine takes its time
@given(st.text(max_size=200))
def test_a_text_is_encoded_aside_as_it_is_here(text: str) -> None:
    """The variant that lets other threads run gives the same ids, for every kind of vocabulary."""
    for tokenizer in (BYTES, BPE, CHARACTERS, WORDS):
        assert tokenizer.encode_aside(text) == tokenizer.encode(text)


def test_other_threads_run_while_a_text_is_encoded_aside() -> None:
    """A thread that counts runs during the half megabyte for which `encode` would keep Python's lock."""
    text, gaps, stop = "abc \n" * 100_000, [0.0], threading.Event()

    def count() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    counting = threading.Thread(target=count)
    counting.start()
    started = time.perf_counter()
    CHARACTERS.encode_aside(text)
    seconds = time.perf_counter() - started
    stop.set()
    counting.join()
    assert max(gaps) < 0.5 * seconds


@settings(deadline=None)  # a busy machine takes its time
@given(st.text(alphabet="abc \nß日🌍"))
def test_characters_decode_to_what_was_encoded(text: str) -> None:
    """Text of known characters survives, one id for each."""
    assert len(CHARACTERS.encode(text)) == len(text)
    assert CHARACTERS.decode(CHARACTERS.encode(text)) == text


def test_an_unknown_character_becomes_the_replacement_character() -> None:
    """What the vocabulary lacks is one id, spelled U+FFFD."""
    assert CHARACTERS.encode("azb") == [1, 0, 2]
    assert CHARACTERS.decode([1, 0, 2]) == "a\N{REPLACEMENT CHARACTER}b"


def test_words_decode_with_the_space_that_follows() -> None:
    """Words are separated by one space, the end of a line is a line's end, unknown words are <unk>."""
    ids = WORDS.encode("the  cat\nthe dog 日本\n")
    assert WORDS.decode(ids) == "the cat \nthe <unk> 日本 \n"
    assert WORDS.encode(WORDS.decode(ids).replace("<unk>", "dog")) == ids


@pytest.mark.parametrize("tokenizer", [BYTES, CHARACTERS, BPE, WORDS])
def test_nothing_is_nothing(tokenizer: Tokenizer) -> None:
    """Empty text is no ids and back."""
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("tokenizer", [BYTES, CHARACTERS, BPE, WORDS])
def test_decoding_is_concatenation(tokenizer: Tokenizer) -> None:
    """A token's bytes do not depend on its neighbours, so text can be made token by token."""
    ids = tokenizer.encode("the cat\nabc hello 日🌍")
    whole = b"".join(tokenizer.token_bytes(index) for index in ids)
    assert whole.decode(errors="replace") == tokenizer.decode(ids)
    assert tuple(tokenizer.token_bytes(index) for index in range(tokenizer.size)) == tokenizer.spellings


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    """decode never fails, whatever the ids are."""
    assert BYTES.decode([0xE6, 0x97]) == "\N{REPLACEMENT CHARACTER}"
    assert BYTES.decode([0xFF, ord("a")]) == "\N{REPLACEMENT CHARACTER}a"


@pytest.mark.parametrize(
    ("tokenizer", "start"),
    [(BYTES, b"\n"), (CHARACTERS, b"\n"), (BPE, b"\n"), (WORDS, b"\n"), (word_tokenizer(), b"\n")],
)
def test_a_sequence_starts_after_an_end_of_line(tokenizer: Tokenizer, start: bytes) -> None:
    """start_id is the token for the end of a line where there is one."""
    assert tokenizer.token_bytes(tokenizer.start_id) == start


def test_without_an_end_of_line_the_first_token_starts() -> None:
    """A vocabulary that lacks one begins with id 0."""
    assert character_tokenizer("ab").start_id == 0


@pytest.mark.parametrize("tokenizer", [BYTES, CHARACTERS, BPE, WORDS])
def test_saved_and_parsed_is_the_same_tokenizer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The file holds everything."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.parse(tokenizer.kind, path.read_bytes())
    assert again.spellings == tokenizer.spellings
    assert again.encode("the cat\nabc 日") == tokenizer.encode("the cat\nabc 日")
    assert again.start_id == tokenizer.start_id


def test_what_is_no_tokenizer_is_a_value_error() -> None:
    """Parsing bad content gives ValueError with the file's name, whatever the library raised."""
    for content in (b"", b"{}", b"\xff\x00", b"[1]"):
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Tokenizer.parse(TokenizerKind.BYTE, content)


@pytest.mark.parametrize("split", range(len(MANY.encode()) + 1))
def test_text_comes_as_soon_as_it_is_whole(split: int) -> None:
    """Cut at any byte, the first piece is the longest text that is certain, and nothing is lost or doubled."""
    content = MANY.encode()
    decoder = TextDecoder()
    first = decoder.push(content[:split])
    assert first == content[:split].decode(errors="ignore")
    assert decoder.tail == content[len(first.encode()) : split]
    assert first + decoder.push(content[split:]) + decoder.flush() == MANY


@pytest.mark.parametrize("split", range(len(MANY.encode()) + 1))
def test_a_tail_carries_over_to_another_decoder(split: int) -> None:
    """A decoder that starts with the tail of another continues where that one stopped."""
    content = MANY.encode()
    one = TextDecoder()
    first = one.push(content[:split])
    assert first + TextDecoder(one.tail).push(content[split:]) == MANY


@settings(deadline=None)  # a busy machine takes its time
@given(st.lists(st.binary(max_size=5)))
def test_pieces_decode_like_the_whole(pieces: list[bytes]) -> None:
    """Any bytes in any pieces give the text that the whole gives; the tail is at most three bytes."""
    decoder = TextDecoder()
    text = ""
    for piece in pieces:
        text += decoder.push(piece)
        assert len(decoder.tail) <= 3
    assert text + decoder.flush() == b"".join(pieces).decode(errors="replace")


def test_flush_replaces_what_never_became_a_character() -> None:
    """Half a character at the end is U+FFFD, once."""
    decoder = TextDecoder("日".encode()[:2])
    assert decoder.flush() == "\N{REPLACEMENT CHARACTER}"
    assert decoder.flush() == ""


def parse(vocabulary: dict[str, int], unknown: str) -> Tokenizer:
    codec = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    codec.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer.parse(TokenizerKind.WORD, codec.to_str().encode())


def test_a_vocabulary_with_a_gap_is_refused() -> None:
    """Ids are 0 to size - 1, or text would become ids that the model does not know."""
    assert parse({"<unk>": 0, "a": 1, "b": 2}, "<unk>").encode("b z") == [2, 0]
    with pytest.raises(ValueError, match="no token has the id 2"):
        parse({"<unk>": 0, "a": 1, "b": 3}, "<unk>")


def test_a_vocabulary_that_cannot_say_what_it_does_not_know_is_refused() -> None:
    """It is refused when it is read, not at the first caller's text with a new word."""
    with pytest.raises(ValueError, match="not a tokenizer"):
        parse({"a": 0, "b": 1}, "<unk>")
