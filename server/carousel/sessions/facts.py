"""The facts in a failed call's log line. Values that callers chose are bounded."""

import re
from hashlib import blake2b
from typing import Any

from carousel.errors import CarouselError, InvalidRequest, Overloaded, PermissionDenied

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_PEER = re.compile(r"[\w.:%\[\]/-]{1,100}", re.ASCII)
_FIELD = re.compile(r"[a-z0-9_.\[\]-]{1,80}")


def of_failure(request: Any, peer: str, error: Exception | None) -> dict[str, str]:
    """Returns the error's reason and field, the session as `printf ID | b2sum -l 64` writes it (without a key, so that
    replicas' lines match), the request id and the peer. A value of unexpected form is logged as `invalid`."""
    facts = {"peer": _bounded(_PEER, peer)}
    if isinstance(error, CarouselError):
        facts["reason"] = error.reason
    elif error is not None:
        facts["reason"] = "INTERNAL"
    if isinstance(error, InvalidRequest):
        facts["field"] = _bounded(_FIELD, error.field)
    if isinstance(error, PermissionDenied) and "principal" in error.details:
        facts["principal"] = error.details["principal"]
    if isinstance(error, Overloaded):
        facts["limit"] = error.limit
    facts |= of_session(request)
    if request_id := getattr(request, "request_id", ""):
        facts["request_id"] = _bounded(_REQUEST_ID, request_id)
    return facts


def of_session(request: Any) -> dict[str, str]:
    """Returns the session of a request, if it names one."""
    session_id = getattr(request, "session_id", "")
    if not session_id:
        return {}
    content = session_id.encode(errors="backslashreplace")  # HTTP callers can write what is no UTF-8
    return {"session": blake2b(content, digest_size=8).hexdigest()}


def _bounded(form: re.Pattern[str], text: str) -> str:
    return text if form.fullmatch(text) else "invalid"
