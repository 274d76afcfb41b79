"""The exceptions of a failed call. Reads the details that the server attaches; knows no request and no channel.

Message texts decide nothing. The server attaches its ErrorInfo to every failure. A failure without ErrorInfo comes from
the connection, from a proxy or from this side; its code shows which.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from carousel.errors import CarouselError

_DOMAIN = "carousel"
_BROKEN = ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED")  # without ErrorInfo: no server has answered
_CODES = {code.value[0]: code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A value in the request that the server refused. `field` has its name on the wire."""

    field: str
    description: str


class ServerError(CarouselError):
    """A call failed. `str()` is the server's message.

    `code` is the gRPC code's name, such as NOT_FOUND. `reason` is the server's stable name for the problem, empty when
    the failure has another source. `details` holds the facts that belong to the reason.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_after_seconds: float | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = dict(details or {})
        self.code = code
        self.reason = reason
        self.violations = violations
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes copies equal, also in another process, whatever arguments a subclass takes."""
        return _make_bare, (type(self), self.args), self.__dict__

    @property
    def position(self) -> int | None:
        """The session's position, when another one was expected (POSITION_MISMATCH), or when the request was applied
        before and its answer is no longer kept (ANSWER_GONE)."""
        return int(self.details["position"]) if "position" in self.details else None

    @property
    def ending(self) -> str:
        """How the session ended: deleted, idle, age, evicted. Empty for other problems."""
        return self.details.get("ending", "")

    @property
    def ended_at(self) -> datetime | None:
        """When the session ended, in UTC."""
        return datetime.fromtimestamp(float(self.details["ended_at"]), UTC) if "ended_at" in self.details else None


class ServerUnreachable(ServerError):
    """No server answers at `address`, or the connection broke. `code` is UNAVAILABLE, whatever the transport's code
    was."""

    def __init__(self, address: str, why: str) -> None:
        cause = why.rpartition(": ")[2]  # the library's layers precede it, in brackets that close at the end
        if cause.count("]") > cause.count("["):
            cause = cause.removesuffix("]")
        super().__init__(f"the server at {address} does not answer: {cause or 'no reason given'}", code="UNAVAILABLE")
        self.address = address


class AnswerChanged(ServerError):
    """The connection broke, and the retry got an answer that differs from the first attempt: the pieces delivered
    before are not the start of one answer. It is unknown whether the turn was applied; the session's `get` returns the
    position."""

    def __init__(self) -> None:
        message = "the retried request got a different answer; the pieces delivered before are not part of it"
        super().__init__(message, code="ABORTED", reason="ANSWER_CHANGED")


def read_error(call: Any, address: str, *, is_ours: bool = False) -> ServerError:
    """Returns the error of a finished call: any object with `code()`, `details()` and `trailing_metadata()`.

    `is_ours` means that this side ended the call.
    """
    try:
        status = rpc_status.from_call(call)
    except (ValueError, message.DecodeError):  # unreadable, or contradicts the call's own code
        status = None
    attached = _read_details(() if status is None else status.details)
    return _explain(call.code().name, call.details(), attached, address, is_ours=is_ours)


def read_status(status: Any, address: str) -> ServerError:
    """Returns the error of one request on a shared stream: a google.rpc.Status, read as the end of a separate call."""
    code = _CODES.get(status.code, "UNKNOWN")
    return _explain(code, status.message, _read_details(status.details), address, is_ours=False)


def _explain(code: str, text: str | None, attached: dict[str, Any], address: str, *, is_ours: bool) -> ServerError:
    text, info = text or "no message", attached.get("ErrorInfo")
    if info is None:
        is_broken = code in _BROKEN and not (is_ours and code == "CANCELLED")
        return ServerUnreachable(address, text) if is_broken else ServerError(text, code=code)
    refused = attached.get("BadRequest", error_details_pb2.BadRequest())
    return ServerError(
        text,
        code=code,
        reason=info.reason,
        violations=tuple(FieldViolation(one.field, one.description) for one in refused.field_violations),
        retry_after_seconds=_seconds(attached.get("RetryInfo")),
        details=info.metadata,
    )


def ended_early() -> ServerError:
    """The server closed the stream, without an error, while an answer was due."""
    return ServerError("the server ended the stream before its last message", code="OK")


def expired() -> ServerError:
    """The time of a request ran out before its answer."""
    return ServerError("Deadline Exceeded", code="DEADLINE_EXCEEDED")


def too_large(num_bytes: int, max_bytes: int) -> ServerError:
    """The request is larger than the server reads."""
    return ServerError(
        f"the request has {num_bytes} bytes, but the server reads at most {max_bytes}", code="RESOURCE_EXHAUSTED"
    )


def broken_here(error: BaseException) -> ServerError:
    """A stream failed on this side in an unexpected way, while an answer was due."""
    return ServerError(f"the stream failed on this side: {error!r}", code="INTERNAL")


def cancelled() -> ServerError:
    """This side ended the call."""
    return ServerError("the call was cancelled", code="CANCELLED")


def closed() -> ServerError:
    """The client of this call is closed."""
    return ServerError("the client is closed", code="CANCELLED")


def again(error: ServerError) -> ServerError:
    """Returns an equal error for another caller, so that each has its own traceback."""
    return copy.copy(error)


def _make_bare(kind: type[ServerError], texts: tuple[str, ...]) -> ServerError:
    """Creates the error without its facts; the pickle adds them."""
    return kind.__new__(kind, *texts)


def _read_details(details: Iterable[Any]) -> dict[str, Any]:
    """Returns the attached messages by name, ErrorInfo only from our server; none when they cannot be read."""
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    found: dict[str, Any] = {}
    try:
        for packed in details:
            for kind in kinds:
                if packed.Is(kind.DESCRIPTOR):
                    found[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    except message.DecodeError:
        return {}
    if "ErrorInfo" in found and found["ErrorInfo"].domain != _DOMAIN:
        return {}
    return found


def _seconds(info: Any) -> float | None:
    return info.retry_delay.ToNanoseconds() / 1e9 if info is not None else None
