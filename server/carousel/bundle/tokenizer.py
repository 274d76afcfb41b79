"""Text to token ids and back. It uses a vocabulary; `carousel_training.vocabulary` learns one.

A tokenizer is the file `tokenizer.json` (the Hugging Face `tokenizers` format) plus its kind, which defines how a token
becomes bytes again:

    - ``byte``: ids 0..255 are the bytes themselves.
    - ``character``: one id per character; unknown ones become ``<unk>``.
    - ``word``: words between white space, ``<unk>``, and ``<eos>`` for each end of line, as in the WikiText papers.
    - ``bpe``: byte-level byte-pair encoding.

Every token has fixed bytes, independent of the tokens before it, so decoding is concatenation and can go token by
token.
"""

import codecs
import enum
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

UNKNOWN = "<unk>"
END_OF_LINE = "<eos>"
FILE_NAME = "tokenizer.json"
_UNHEARD_OF = "\U0010ffff"  # in no vocabulary: a tokenizer that cannot encode it would fail on a caller's text


class TokenizerKind(enum.StrEnum):
    BYTE = "byte"
    CHARACTER = "character"
    WORD = "word"
    BPE = "bpe"


class Tokenizer:
    """An immutable text codec over `size` ids. `start_id` precedes the first token of every sequence."""

    def __init__(self, kind: TokenizerKind, codec: tokenizers.Tokenizer) -> None:
        self.kind = kind
        self._codec = codec
        self.size = codec.get_vocab_size()
        self._bytes = [self._spell_token(codec.id_to_token(index) or "") for index in range(self.size)]

    @classmethod
    def parse(cls, kind: TokenizerKind, content: bytes) -> "Tokenizer":
        """Parses the content of `tokenizer.json`. Raises ValueError with the reason when it is invalid."""
        try:
            codec = tokenizers.Tokenizer.from_buffer(content)
            missing = next((index for index in range(codec.get_vocab_size()) if codec.id_to_token(index) is None), None)
            if missing is not None:
                raise ValueError(f"no token has the id {missing}")
            codec.encode(_UNHEARD_OF)
            return cls(kind, codec)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{FILE_NAME} is not a tokenizer: {error}") from error

    def save(self, path: Path) -> None:
        self._codec.save(str(path))

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.size} tokens)"

    @functools.cached_property
    def start_id(self) -> int:
        """The token before every sequence: the end of a line where the vocabulary has one."""
        if self.kind is TokenizerKind.BYTE:
            return ord("\n")
        end_of_line = END_OF_LINE if self.kind is TokenizerKind.WORD else BYTE_ALPHABET[ord("\n")]
        found = self._codec.token_to_id("\n" if self.kind is TokenizerKind.CHARACTER else end_of_line)
        return found if found is not None else 0

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._codec.encode(text, add_special_tokens=False).ids
        return ids

    def encode_aside(self, text: str) -> list[int]:
        """Works as `encode`, in a thread that lets others run. `encode` keeps Python's lock, which is faster for short
        texts."""
        (encoding,) = self._codec.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; bytes that are not UTF-8 become U+FFFD."""
        return self.spell(ids).decode("utf-8", errors="replace")

    def spell(self, ids: Iterable[int]) -> bytes:
        """Returns the concatenated bytes of these tokens."""
        return b"".join([self._bytes[index] for index in ids])

    def token_bytes(self, index: int) -> bytes:
        return self._bytes[index]

    @functools.cached_property
    def texts(self) -> Sequence[str]:
        """Each token decoded alone, by id."""
        return [spelling.decode("utf-8", errors="replace") for spelling in self._bytes]

    @functools.cached_property
    def spellings(self) -> Sequence[bytes]:
        """The bytes of every token, by id."""
        return tuple(self._bytes)

    def _spell_token(self, token: str) -> bytes:
        match self.kind:
            case TokenizerKind.BYTE | TokenizerKind.BPE:
                return bytes(_BYTES_OF_ALPHABET[letter] for letter in token)
            case TokenizerKind.WORD:
                return b"\n" if token == END_OF_LINE else token.encode() + b" "
            case TokenizerKind.CHARACTER:
                return "\N{REPLACEMENT CHARACTER}".encode() if token == UNKNOWN else token.encode()


class TextDecoder:
    """Bytes in, text out as soon as characters are complete. `tail` holds the incomplete rest."""

    def __init__(self, tail: bytes = b"") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(tail)

    def push(self, piece: bytes) -> str:
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """Returns the incomplete rest as U+FFFD."""
        return self._decoder.decode(b"", final=True)

    @property
    def tail(self) -> bytes:
        return self._decoder.getstate()[0]


def _byte_alphabet() -> list[str]:
    """Byte-level BPE writes byte b as a printable character; the library gives the set, this function the order.

    Printable Latin-1 characters represent themselves, the others take the code points from 256 upwards in order.
    """
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    themselves = {ord(letter): letter for letter in alphabet if ord(letter) < 256}
    shifted = iter(letter for letter in alphabet if ord(letter) >= 256)
    return [themselves[byte] if byte in themselves else next(shifted) for byte in range(256)]


BYTE_ALPHABET = tuple(_byte_alphabet())  # byte b is written as the character at b
_BYTES_OF_ALPHABET = {letter: byte for byte, letter in enumerate(BYTE_ALPHABET)}
