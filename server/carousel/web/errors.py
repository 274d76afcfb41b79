"""The one table from domain errors to HTTP statuses, for what the HTTP side can raise."""

import math

from starlette.responses import PlainTextResponse, Response

from carousel import errors

STATUSES: dict[type[errors.CarouselError], int] = {
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.Overloaded: 429,
}


def to_response(error: errors.CarouselError) -> Response:
    """Returns the answer for the client. The text of an error that is not in the table is not sent."""
    status = STATUSES.get(type(error))
    if status is None:
        return PlainTextResponse("internal error\n", status_code=500)
    headers = {}
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_seconds))
    return PlainTextResponse(f"{error}\n", status_code=status, headers=headers)
