"""The values of a state as the wire has them, as views that need no other package. Functions only."""

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

_CODES: dict[str, Any] = {  # by NumPy's names of types, those of `struct`
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}


def view(content: bytes, shape: Sequence[int], dtype: str) -> "memoryview[Any]":
    """Returns little-endian values in C order as a view of this shape. Half precision becomes float32: a view cannot
    have it. Raises ValueError for a type that is not known here, or for too few or too many bytes."""
    code = _CODES.get(dtype)
    if code is None:
        raise ValueError(f"values of type {dtype!r} cannot be read")
    if code == "e" or sys.byteorder == "big":
        content, code = _convert(content, math.prod(shape), code)
    try:
        return memoryview(content).cast(code, tuple(shape))
    except TypeError as error:
        raise ValueError(f"{len(content)} bytes are no values of type {dtype} and shape {tuple(shape)}") from error


def _convert(content: bytes, count: int, code: str) -> tuple[bytes, Any]:
    native = "f" if code == "e" else code
    try:
        return struct.pack(f"{count}{native}", *struct.unpack(f"<{count}{code}", content)), native
    except struct.error as error:
        raise ValueError(f"{len(content)} bytes are not {count} values") from error
