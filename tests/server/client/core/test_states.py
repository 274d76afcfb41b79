"""Values on the wire become views of their tensors' shapes, on every machine."""

import struct
import sys
from typing import Any

import numpy as np
import pytest

from carousel.client.core import states
from carousel.client.core.states import view

WHOLE = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
REAL = ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", [*WHOLE, *REAL])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 2)])
def test_a_view_is_the_array(dtype: str, shape: tuple[int, ...]) -> None:
    """With its shape and values; arrays take it without a copy. Half precision is widened."""
    array = np.arange(int(np.prod(shape)), dtype="float64").reshape(shape).astype(dtype)
    found = view(array.astype(array.dtype.newbyteorder("<")).tobytes(), shape, dtype)
    assert found.tolist() == array.tolist()
    taken = np.asarray(found)
    assert (taken.shape, taken.dtype) == (shape, np.dtype("float32" if dtype == "float16" else dtype))
    assert np.shares_memory(taken, np.asarray(found))


@pytest.mark.parametrize("dtype", REAL)
def test_what_is_no_number_stays(dtype: str) -> None:
    """Infinity and NaN are values like others."""
    array = np.array([np.inf, -np.inf, np.nan], dtype)
    assert str(view(array.astype(array.dtype.newbyteorder("<")).tobytes(), (3,), dtype).tolist()) == "[inf, -inf, nan]"


def test_the_other_order_of_bytes_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose numbers begin with their highest byte, they are packed anew in its own order."""
    packed: list[Any] = []

    class Turning:
        error = struct.error

        @staticmethod
        def unpack(format: str, content: bytes) -> tuple[Any, ...]:
            return struct.unpack(format, content)

        @staticmethod
        def pack(format: str, *values: Any) -> bytes:
            packed.append((format, values))
            return struct.pack(format, *values)

    monkeypatch.setattr(sys, "byteorder", "big")
    monkeypatch.setattr(states, "struct", Turning)
    view(struct.pack("<2f", 1, 2), (2,), "float32")
    assert packed == [("2f", (1.0, 2.0))]


@pytest.mark.parametrize(
    ("content", "shape", "dtype"),
    [
        (b"1234", (2,), "float32"),
        (b"12345", (1,), "float32"),
        (b"", (), "float32"),
        (b"1", (1,), "float16"),
        (b"1234", (1,), "bfloat16"),
        (b"1234", (1,), ""),
    ],
)
def test_what_cannot_be_read_is_said(content: bytes, shape: tuple[int, ...], dtype: str) -> None:
    """Unknown types, and bytes that are too few or too many."""
    with pytest.raises(ValueError, match="values"):
        view(content, shape, dtype)
