"""Requests that make, move or end sessions, told apart by their contents, so that a repeat does nothing anew.

What such a request did is recorded by the store in the same change, as a `Deed`; what a rewind or a checkpoint did, in
the session itself.
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
    """Empty is right: the request is not to be repeated. Raises InvalidRequest."""
    if request_id and not is_request_id(request_id):
        raise InvalidRequest("request_id", "must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")


def fingerprint(kind: str, *contents: object) -> bytes:
    """12 bytes, the same for equal requests. Contents are text, numbers, bytes, sequences of these, or None."""
    return hashlib.blake2b(repr((kind, contents)).encode(), digest_size=12).digest()


def check_same(deed: Deed, contents: bytes) -> None:
    """Raises InvalidRequest when the id was used for another request."""
    if deed.fingerprint != contents.hex():
        raise used_otherwise()


def used_otherwise() -> InvalidRequest:
    return InvalidRequest("request_id", "was used for another request")


def derive_id(owner: str, request_id: str, number: int) -> str:
    """The id of the session that the owner's request makes as its nth: whichever server carries it out, the same."""
    content = "\0".join((owner, request_id, str(number))).encode()
    return _spell(hashlib.blake2b(content, digest_size=_ID_BYTES, person=b"carousel session").digest())


def draw_id() -> str:
    """An id that nobody can guess."""
    return _spell(secrets.token_bytes(_ID_BYTES))


def _spell(content: bytes) -> str:
    """Never beginning with a dash, which a command line takes for an option."""
    text = base64.urlsafe_b64encode(content).decode()
    return f"_{text[1:]}" if text.startswith("-") else text
