"""A snapshot as self-describing bytes: versioned, named, checked. Never pickle.

    "CRSL" | version u8 | lengths | model digest 32 | position i64
    | layout text | recent ids i32 | tail | hidden | tensors | crc32

All numbers are little-endian. The layout text lists name, dtype and shape of every tensor. When the hidden vector
equals one of the tensors bit for bit, as in an LSTM, it is stored once.
"""

import functools
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from carousel.bundle.layout import StateLayout
from carousel.errors import StateInvalid
from carousel.turns import Array, Snapshot

MAGIC = b"CRSL"
VERSION = 1
_HEAD = struct.Struct(
    "<4sBHHBHb32sq"
)  # magic, version, layout, recent, tail, hidden size, hidden's tensor, digest, position
_CHECK = struct.Struct("<I")
_OF_ITS_OWN = -1
_MAX_TAIL_BYTES = 3  # of an incomplete character


class SnapshotCodec:
    """The byte format of one model's snapshots."""

    def __init__(self, layout: StateLayout, model_digest: str, hidden_size: int) -> None:
        self._digest = bytes.fromhex(model_digest)
        self._hidden_size = hidden_size
        self._tensors = [
            (
                np.dtype(tensor.dtype),
                tensor.num_bytes // np.dtype(tensor.dtype).itemsize,
                tensor.shape,
                tensor.num_bytes,
            )
            for tensor in layout.tensors
        ]
        self._tensor_bytes = sum(num_bytes for *_, num_bytes in self._tensors)
        hidden = (np.dtype(np.float32), (hidden_size,))
        self._twins = [at for at, (dtype, _, shape, _) in enumerate(self._tensors) if (dtype, shape) == hidden]
        self._layout_text = ";".join(
            f"{tensor.name}:{tensor.dtype}:{'x'.join(map(str, tensor.shape))}" for tensor in layout.tensors
        ).encode()

    def max_bytes(self, penalty_window: int) -> int:
        """Returns the largest size of a snapshot with `penalty_window` recent tokens."""
        rest = _HEAD.size + len(self._layout_text) + _CHECK.size + _MAX_TAIL_BYTES
        return rest + self._tensor_bytes + 4 * self._hidden_size + 4 * penalty_window

    def encode(self, snapshot: Snapshot) -> bytes:
        """The inverse of `decode`."""
        tensors = [array.tobytes() for array in snapshot.state]
        hidden = snapshot.hidden_H.astype("<f4", copy=False).tobytes()
        twin = self._find_twin(tensors, hidden)
        recent = _ids(len(snapshot.recent_ids)).pack(*snapshot.recent_ids)
        head = _HEAD.pack(
            MAGIC,
            VERSION,
            len(self._layout_text),
            len(snapshot.recent_ids),
            len(snapshot.tail),
            self._hidden_size,
            twin,
            self._digest,
            snapshot.position,
        )
        rest = (hidden, *tensors) if twin == _OF_ITS_OWN else tensors
        content = b"".join((head, self._layout_text, recent, snapshot.tail, *rest))
        return content + _CHECK.pack(zlib.crc32(content))

    def decode(self, blob: bytes) -> Snapshot:
        """Raises StateInvalid with the reason: not a snapshot, damaged, another version, another model's."""
        num_layout, num_recent, num_tail, twin, position = self._read_head(blob)
        at = _HEAD.size + num_layout
        recent_ids = _ids(num_recent).unpack_from(blob, at)
        at += 4 * num_recent
        tail = blob[at : at + num_tail]
        at += num_tail
        hidden_H: Array | None = None
        if twin == _OF_ITS_OWN:
            hidden_H = np.frombuffer(blob, "<f4", self._hidden_size, at)
            at += hidden_H.nbytes
        state = []
        for dtype, count, shape, num_bytes in self._tensors:
            state.append(np.frombuffer(blob, dtype, count, at).reshape(shape))
            at += num_bytes
        if hidden_H is None:
            hidden_H = state[twin]
        return Snapshot(position, tuple(state), hidden_H, recent_ids, tail)

    @staticmethod
    def position(blob: bytes) -> int:
        """Returns the position alone, without checking the rest."""
        return int(_HEAD.unpack_from(blob)[-1])

    def _read_head(self, blob: bytes) -> tuple[int, int, int, int, int]:
        """Returns the lengths of layout, recent ids and tail, the hidden vector's tensor, the position; all else is
        checked."""
        if len(blob) < _HEAD.size + _CHECK.size or not blob.startswith(MAGIC):
            raise StateInvalid("this is not a snapshot")
        _, version, num_layout, num_recent, num_tail, hidden_size, twin, digest, position = _HEAD.unpack_from(blob)
        if version != VERSION:
            raise StateInvalid(f"the snapshot has format version {version}; this server reads {VERSION}")
        if zlib.crc32(memoryview(blob)[: -_CHECK.size]) != _CHECK.unpack_from(blob, len(blob) - _CHECK.size)[0]:
            raise StateInvalid("the snapshot is damaged: its checksum does not match")
        if digest != self._digest:
            raise StateInvalid(f"the snapshot belongs to model {digest.hex()[:16]}, not to {self._digest.hex()[:16]}")
        layout_text = blob[_HEAD.size : _HEAD.size + num_layout]
        if layout_text != self._layout_text or hidden_size != self._hidden_size:
            raise StateInvalid(f"the snapshot has the tensors {layout_text.decode(errors='replace')}")
        num_hidden = self._hidden_size if twin == _OF_ITS_OWN else 0
        size = _HEAD.size + num_layout + 4 * (num_recent + num_hidden) + num_tail + self._tensor_bytes + _CHECK.size
        if len(blob) != size or not (twin == _OF_ITS_OWN or twin in self._twins):
            raise StateInvalid("the snapshot is damaged: its parts do not add up to its size")
        return num_layout, num_recent, num_tail, twin, position

    def _find_twin(self, tensors: Sequence[bytes], hidden: bytes) -> int:
        """Returns the tensor that equals the hidden vector bit for bit; the search starts at the last layer."""
        return next((index for index in reversed(self._twins) if tensors[index] == hidden), _OF_ITS_OWN)


@functools.cache
def _ids(count: int) -> struct.Struct:
    """The format of token ids: the penalty window's number, or fewer."""
    return struct.Struct(f"<{count}i")
