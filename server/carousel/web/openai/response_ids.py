"""The ids of responses: opaque texts that name an owner, a session in one incarnation, and a turn's revision.

Everything in an id comes back from callers: nothing in it is trusted. The owner's part only spares foreign owners a
search; the session is looked up for the caller's own owner in any case.
"""

import base64
import secrets
import struct
from hashlib import blake2b

from carousel.errors import SessionNotFound
from carousel.sessions import checks
from carousel.sessions.requests import Waypoint

PREFIX = "resp_"
_FORM = 1
_HEAD = struct.Struct(">B8sQQ")  # form, owner, incarnation, revision; then the session's id
_MAX_CHARS = 512
_MAX_NUMBER = 2**63
_SHOWN = 80  # of an id, in an error


def write_id(owner: str, waypoint: Waypoint) -> str:
    head = _HEAD.pack(_FORM, _digest(owner), waypoint.incarnation, waypoint.revision)
    content = head + waypoint.session_id.encode()
    return PREFIX + base64.urlsafe_b64encode(content).decode().rstrip("=")


def draw_id() -> str:
    """Returns the id of a response that is not kept: it names nothing."""
    return f"{PREFIX}{secrets.token_hex(16)}"


def read_id(owner: str, text: str) -> Waypoint:
    """Returns what the owner's id names. Raises SessionNotFound for every other text."""
    waypoint = _read(owner, text)
    if waypoint is None or write_id(owner, waypoint) != text:  # one spelling for each
        raise SessionNotFound(f"there is no response {text[:_SHOWN]}")
    return waypoint


def _read(owner: str, text: str) -> Waypoint | None:
    body = text.removeprefix(PREFIX)
    if body == text or len(text) > _MAX_CHARS or not text.isascii():
        return None
    try:
        content = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        form, digest, incarnation, revision = _HEAD.unpack_from(content)
        session_id = content[_HEAD.size :].decode("ascii")
    except (ValueError, struct.error):
        return None
    if form != _FORM or digest != _digest(owner) or not checks.is_name(session_id):
        return None
    if incarnation >= _MAX_NUMBER or revision >= _MAX_NUMBER:
        return None
    return Waypoint(session_id, incarnation, revision)


def _digest(owner: str) -> bytes:
    return blake2b(owner.encode(), digest_size=8, person=b"response owner").digest()
