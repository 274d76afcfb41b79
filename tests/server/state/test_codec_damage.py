"""A snapshot whose checksum fits says what it is or is refused, whatever stands in its head."""

import struct
import zlib

import numpy as np
import pytest

from carousel.bundle.layout import StateLayout, StateTensor
from carousel.errors import StateInvalid
from carousel.state.codec import SnapshotCodec
from carousel.turns import Snapshot

WIDTH = 4
LAYOUT = StateLayout((StateTensor("steps", (1,), "int64"), StateTensor("h", (WIDTH,), "float32")))
CODEC = SnapshotCodec(LAYOUT, "ab" * 32, WIDTH)
VECTOR = np.arange(WIDTH, dtype=np.float32)
TWIN = Snapshot(5, (np.array([7]), VECTOR), VECTOR, (1, 2, 3), b"\xe2")
ALONE = Snapshot(5, (np.array([7]), VECTOR), VECTOR + 1, (1, 2, 3), b"\xe2")
RECENT, TAIL, HIDDEN_IS = (7, "<H"), (9, "<B"), (12, "<b")  # where the numbers of the head stand


def seal(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def forge(snapshot: Snapshot, place: tuple[int, str], value: int) -> bytes:
    body = bytearray(CODEC.encode(snapshot)[:-4])
    struct.pack_into(place[1], body, place[0], value)
    return seal(bytes(body))


@pytest.mark.parametrize("snapshot", [TWIN, ALONE])
def test_the_forger_forges_well(snapshot: Snapshot) -> None:
    """With its own numbers a snapshot is read, bit for bit, so that the refusals below are for their reasons."""
    found = CODEC.decode(forge(snapshot, RECENT, 3))
    assert (found.position, found.recent_ids, found.tail) == (5, (1, 2, 3), b"\xe2")
    np.testing.assert_array_equal(found.hidden_H, snapshot.hidden_H)
    for one, other in zip(found.state, snapshot.state, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("snapshot", [TWIN, ALONE])
@pytest.mark.parametrize(("place", "value"), [(RECENT, 2), (RECENT, 4), (RECENT, 65_535), (TAIL, 0), (TAIL, 255)])
def test_lengths_that_do_not_fit_are_refused(snapshot: Snapshot, place: tuple[int, str], value: int) -> None:
    """More or fewer recent tokens or bytes of text than there are: refused, never an error of a library."""
    with pytest.raises(StateInvalid, match="do not add up"):
        CODEC.decode(forge(snapshot, place, value))


@pytest.mark.parametrize("snapshot", [TWIN, ALONE])
@pytest.mark.parametrize("value", [-2, 0, 2, 127])
def test_the_hidden_vector_is_a_tensor_of_its_shape(snapshot: Snapshot, value: int) -> None:
    """Neither a tensor that there is not, nor one of another shape or type, stands for the hidden vector."""
    body = CODEC.encode(TWIN)[:-4] if snapshot is TWIN else CODEC.encode(ALONE)[: -4 - 4 * WIDTH]
    forged = bytearray(body)
    struct.pack_into(HIDDEN_IS[1], forged, HIDDEN_IS[0], value)
    with pytest.raises(StateInvalid, match="do not add up"):
        CODEC.decode(seal(bytes(forged)))


@pytest.mark.parametrize("snapshot", [TWIN, ALONE])
@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"\0", lambda body: body[:60]])
def test_a_body_that_was_cut_or_grown_is_refused(snapshot: Snapshot, change: object) -> None:
    """With a checksum that fits, a snapshot still has exactly the bytes that its head promises."""
    assert callable(change)
    with pytest.raises(StateInvalid):
        CODEC.decode(seal(change(CODEC.encode(snapshot)[:-4])))
