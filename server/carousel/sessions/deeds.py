"""Request ids of calls that create, move or end sessions: a retry changes nothing.

The store records what such a request did as a `Deed`, in the same change. The session itself records what a rewind or a
checkpoint did.
"""

import base64
import hashlib
import re
import secrets

from carousel.errors import InvalidRequest
from carousel.state.store import Deed

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_ID_BYTES = 18


def is_request_id(request_id: str) -> bool:
    return _REQUEST_ID.fullmatch(request_id) is not None


def check_request_id(request_id: str) -> None:
    """Raises InvalidRequest for a malformed id. An empty id is valid: the request cannot be retried."""
    if request_id and not is_request_id(request_id):
        raise InvalidRequest("request_id", "must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")


def fingerprint(kind: str, *contents: object) -> bytes:
    """Returns 12 bytes, the same for equal requests. Contents are text, numbers, bytes, sequences of these, or None."""
    return hashlib.blake2b(repr((kind, contents)).encode(), digest_size=12).digest()


def check_same(deed: Deed, contents: bytes) -> None:
    """Raises InvalidRequest when the id was used for another request."""
    if deed.fingerprint != contents.hex():
        raise used_otherwise()


def used_otherwise() -> InvalidRequest:
    return InvalidRequest("request_id", "was used for another request")


def derive_id(owner: str, request_id: str, number: int) -> str:
    """Returns the id of the nth session that the owner's request creates. Every server derives the same id."""
    content = "\0".join((owner, request_id, str(number))).encode()
    return _spell(hashlib.blake2b(content, digest_size=_ID_BYTES, person=b"carousel session").digest())


def draw_id() -> str:
    """Returns a random id that cannot be guessed."""
    return _spell(secrets.token_bytes(_ID_BYTES))


def _spell(content: bytes) -> str:
    """Returns the bytes as base64 that never starts with a dash, which a command line reads as an option."""
    text = base64.urlsafe_b64encode(content).decode()
    return f"_{text[1:]}" if text.startswith("-") else text
