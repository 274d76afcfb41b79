"""The one table from domain errors to OpenAI's errors: a status, and a body that their clients read.

Source: the error object of OpenAI's API reference. `code` is the reason that gRPC has in ErrorInfo, in lower case.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carousel import errors

_INTERNAL = "internal error"
_MAX_TEXT = 500
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
STATUSES: dict[type[errors.CarouselError], int] = {
    errors.InvalidRequest: 400,
    errors.ChatTemplateMissing: 400,
    errors.MessageInvalid: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.SessionNotFound: 404,
    errors.ModelNotFound: 404,
    errors.SessionExists: 409,
    errors.SessionEnded: 404,
    errors.SessionExpired: 404,
    errors.SessionEvicted: 404,
    errors.SessionDeleted: 404,
    errors.SessionMoved: 409,
    errors.PositionMismatch: 409,
    errors.PositionUnknown: 404,
    errors.AnswerGone: 409,
    errors.StateInvalid: 400,
    errors.StateRefused: 400,
    errors.StoreUnavailable: 503,
    errors.FiguresUnavailable: 503,
    errors.Overloaded: 429,
    errors.ShuttingDown: 503,
    errors.ModelFailed: 500,
}


def status_of(error: Exception) -> int:
    return STATUSES.get(type(error), 500) if isinstance(error, errors.CarouselError) else 500


@dataclass(frozen=True)
class Terms:
    """What one call calls things. `params` has the names of fields that are others over HTTP. `missing` is the code
    where what `named` names is not there."""

    params: Mapping[str, str]
    missing: str = ""
    named: str = ""

    def to_body(self, error: Exception) -> bytes:
        """Returns the JSON body. The text of an error outside the domain is not sent."""
        status = status_of(error)
        if not isinstance(error, errors.CarouselError) or type(error) not in STATUSES:
            return _body(_INTERNAL, status, None, "internal")
        if isinstance(error, errors.InvalidRequest):
            param = self._param_of(error.field)
            text = str(error).replace(error.field, param, 1)[:_MAX_TEXT]
            return _body(text, status, param, error.reason.lower())
        is_missing = self.missing and status == 404 and not isinstance(error, errors.ModelNotFound)
        code, named = (self.missing, self.named) if is_missing else (error.reason.lower(), None)
        return _body(str(error)[:_MAX_TEXT], status, named, code, error.details)

    def _param_of(self, field: str) -> str:
        """Returns the name of a field over HTTP, where none is nested."""
        name = field.removeprefix("sampling.").partition("[")[0].partition(".")[0]
        return self.params.get(name, name)


def to_headers(error: Exception) -> dict[str, str]:
    """Returns what clients go by: whether a retry is of use, and when."""
    headers = {"content-type": "application/json"}
    status = status_of(error)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 409:
        headers["x-should-retry"] = "true" if isinstance(error, errors.SessionMoved) else "false"
    if isinstance(error, (errors.Overloaded, errors.StoreUnavailable)):
        headers["retry-after"] = str(math.ceil(error.retry_seconds))
        headers["retry-after-ms"] = str(math.ceil(error.retry_seconds * 1000))
    return headers


def refusal(status: int, text: str, code: str) -> tuple[int, bytes, dict[str, str]]:
    """Returns the answer to what is refused before it is a call."""
    return status, _body(text, status, None, code), {"content-type": "application/json"}


def _body(text: str, status: int, param: str | None, code: str, details: dict[str, str] | None = None) -> bytes:
    error: dict[str, Any] = {"message": text, "type": _KINDS[status], "param": param, "code": code}
    return json.dumps({"error": error | ({"details": details} if details else {})}).encode()
