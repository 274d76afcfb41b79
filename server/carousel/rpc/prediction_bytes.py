"""The answers of plain turns as bytes, joined from pieces that protobuf made once.

The bytes of a candidate's id and text never change; only its log-probability and the position do. A token's pieces are
made when the token is first a candidate.
"""

import functools
import struct
from collections.abc import Sequence

from carousel.bundle.tokenizer import Tokenizer
from carousel.sessions.resident import Named
from carousel.v1 import language_model_pb2 as wire

_MARK = -1.5  # a log-probability whose bytes do not occur in a token's id or text
_MARK_BYTES = b"\x15" + struct.pack("<f", _MARK)  # with the field's tag


class PredictionBytes:
    """Encodes the answers of plain turns as PredictResponse messages."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, tuple[bytes, bytes]] = {}  # by token: the bytes before and after the log-probability

    def encode(self, named: Named) -> bytes:
        pieces: dict[int, tuple[bytes, bytes]] = self._pieces
        parts: list[bytes] = []
        add = parts.append
        packed, at = _pack(named.log_probabilities), 0
        for index in named.ids:
            before, after = pieces.get(index) or self._make(index)
            add(before)
            add(packed[at : at + 4])
            add(after)
            at += 4
        rest = wire.PredictResponse(position=named.position, durable_position=named.durable_position)
        add(rest.SerializeToString())
        return b"".join(parts)

    def _make(self, index: int) -> tuple[bytes, bytes]:
        response = wire.PredictResponse()
        response.candidates.add(id=index, log_probability=_MARK, text=self._tokenizer.texts[index])
        before, mark, after = response.SerializeToString().partition(_MARK_BYTES)
        assert mark
        pieces = self._pieces[index] = (before + mark[:1], after)
        return pieces


def _pack(numbers: Sequence[float]) -> bytes:
    return _floats(len(numbers)).pack(*numbers)


@functools.cache
def _floats(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}f")
