"""What metadata a call may carry. Bad metadata is refused before the call: grpc and grpc.aio treat it differently, and
grpc.aio may never report it."""

import re
from typing import Any

from carousel.client.core.options import Metadata

_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(rb"[ -~]*")


def check_metadata(metadata: Metadata) -> None:
    """Raises TypeError for anything but pairs of a key and a value, and ValueError for what no header can carry.
    Messages name keys, never values: values may be secrets."""
    for entry in metadata:
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise TypeError("metadata: must be pairs of a key and a value")
        key, value = entry
        if not isinstance(key, str):
            raise TypeError(f"metadata: a key must be a str, not {type(key).__name__}")
        if not _KEY.fullmatch(key):
            raise ValueError(f"metadata: a key has lower-case letters, digits, '-', '_' and '.', unlike {key!r}")
        _check_value(key, value)


def _check_value(key: str, value: Any) -> None:
    is_binary = key.endswith("-bin")
    if not isinstance(value, bytes if is_binary else str | bytes):
        wanted = "bytes" if is_binary else "a str"
        raise TypeError(f"metadata: the value of {key!r} must be {wanted}, not {type(value).__name__}")
    encoded = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
    if not (is_binary or _TEXT.fullmatch(encoded)):
        raise ValueError(f"metadata: the value of {key!r} must be printable ASCII; a key that ends in -bin takes bytes")
