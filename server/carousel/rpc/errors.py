"""The one table from domain errors to gRPC codes, and their details as `google.rpc` messages."""

from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from carousel import errors

DOMAIN = "carousel"

CODES: dict[type[errors.CarouselError], int] = {
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.MessageInvalid: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.SessionNotFound: code_pb2.NOT_FOUND,
    errors.ModelNotFound: code_pb2.NOT_FOUND,
    errors.SessionExists: code_pb2.ALREADY_EXISTS,
    errors.SessionEnded: code_pb2.NOT_FOUND,
    errors.SessionExpired: code_pb2.FAILED_PRECONDITION,
    errors.SessionEvicted: code_pb2.FAILED_PRECONDITION,
    errors.SessionDeleted: code_pb2.NOT_FOUND,
    errors.SessionMoved: code_pb2.ABORTED,
    errors.PositionMismatch: code_pb2.ABORTED,
    errors.PositionUnknown: code_pb2.FAILED_PRECONDITION,
    errors.AnswerGone: code_pb2.FAILED_PRECONDITION,
    errors.StateInvalid: code_pb2.FAILED_PRECONDITION,
    errors.StateRefused: code_pb2.FAILED_PRECONDITION,
    errors.StoreUnavailable: code_pb2.UNAVAILABLE,
    errors.FiguresUnavailable: code_pb2.UNAVAILABLE,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.ShuttingDown: code_pb2.UNAVAILABLE,
    errors.ModelFailed: code_pb2.INTERNAL,
}
_INTERNAL = "internal error"
_MAX_TEXT = 500  # messages quote what the caller sent, and a status must fit into HTTP/2 trailers


def code_of(error: Exception) -> str:
    """Returns the name of the error's code, whatever its text."""
    code = CODES.get(type(error), code_pb2.INTERNAL) if isinstance(error, errors.CarouselError) else code_pb2.INTERNAL
    return str(code_pb2.Code.Name(code))


def to_status(error: Exception) -> status_pb2.Status:
    """Returns the status for the client. The text of an error outside the domain is not sent."""
    if not isinstance(error, errors.CarouselError) or type(error) not in CODES:
        return _status(code_pb2.INTERNAL, _INTERNAL, [error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN)])
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.details)
    return _status(CODES[type(error)], _shorten(str(error)), [info, *_more_details(error)])


def _more_details(error: errors.CarouselError) -> list[message.Message]:
    match error:
        case errors.InvalidRequest():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=_shorten(str(error)))
            return [error_details_pb2.BadRequest(field_violations=[violation])]
        case errors.Overloaded() | errors.StoreUnavailable():
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(error.retry_seconds * 1e9))
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
        case _:
            return []


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _status(code: int, text: str, details: list[message.Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=text, details=packed)
