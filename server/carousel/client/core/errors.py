"""What a failed call raises. Reads the details that the server attaches; knows no request and no channel.

Texts decide nothing. The server attaches its ErrorInfo to every failure; one that comes without it comes from the
connection, from what stands between, or from this side of it, and its code says which.
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
_BROKEN = ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED")  # without ErrorInfo: nobody has answered
_CODES = {code.value[0]: code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A value in the request that the server refused. `field` names it as the wire does."""

    field: str
    description: str


class ServerError(CarouselError):
    """A call failed. `str()` is the server's message.

    `code` is the gRPC code's name, such as NOT_FOUND; `reason` the server's stable name for what went wrong, empty when
    it came from somewhere else; `details` the facts that go with the reason.
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
        """A copy, also one in another process, is equal, whatever a class takes to be made."""
        return _make_bare, (type(self), self.args), self.__dict__

    @property
    def position(self) -> int | None:
        """Where the session stands, when it was expected elsewhere (POSITION_MISMATCH), or the request was applied
        before and its answer is no longer kept (ANSWER_GONE)."""
        return int(self.details["position"]) if "position" in self.details else None

    @property
    def ending(self) -> str:
        """How the session ended: deleted, idle, age, evicted. Empty when that is not what is wrong."""
        return self.details.get("ending", "")

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, in UTC."""
        return datetime.fromtimestamp(float(self.details["ended_at"]), UTC) if "ended_at" in self.details else None


class ServerUnreachable(ServerError):
    """Nobody answers at `address`, or the connection broke. `code` is UNAVAILABLE, whatever the transport's was."""

    def __init__(self, address: str, why: str) -> None:
        cause = why.rpartition(": ")[2]  # before it stand the library's layers, in brackets that it closes at the end
        if cause.count("]") > cause.count("["):
            cause = cause.removesuffix("]")
        super().__init__(f"the server at {address} does not answer: {cause or 'no reason given'}", code="UNAVAILABLE")
        self.address = address


class AnswerChanged(ServerError):
    """The connection broke, and the repeat was answered otherwise than the first try: what was delivered is not the
    beginning of one answer. Whether the turn was applied is not known; the session's `get` tells where it stands."""

    def __init__(self) -> None:
        message = "the repeated request was answered differently; what came before is not part of the answer"
        super().__init__(message, code="ABORTED", reason="ANSWER_CHANGED")


def read_error(call: Any, address: str, *, is_ours: bool = False) -> ServerError:
    """The error of a finished call: of anything with `code()`, `details()` and `trailing_metadata()`.

    `is_ours` says that this side ended it.
    """
    try:
        status = rpc_status.from_call(call)
    except (ValueError, message.DecodeError):  # cannot be read, or contradicts the call's own
        status = None
    attached = _read_details(() if status is None else status.details)
    return _explain(call.code().name, call.details(), attached, address, is_ours=is_ours)


def read_status(status: Any, address: str) -> ServerError:
    """The error that one of many on a stream is answered with: a google.rpc.Status, as a call of its own would have
    ended."""
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
    """For a stream that the server closed, without an error, while an answer was due."""
    return ServerError("the server ended the stream before its last message", code="OK")


def expired() -> ServerError:
    """For a question whose time is over before its answer."""
    return ServerError("Deadline Exceeded", code="DEADLINE_EXCEEDED")


def too_large(num_bytes: int, max_bytes: int) -> ServerError:
    """For a question that the server would not read."""
    return ServerError(
        f"the question has {num_bytes} bytes, and the server reads {max_bytes}", code="RESOURCE_EXHAUSTED"
    )


def broken_here(error: BaseException) -> ServerError:
    """For what waits for an answer on a stream that has failed on this side, in a way that nobody foresaw."""
    return ServerError(f"the stream failed on this side: {error!r}", code="INTERNAL")


def cancelled() -> ServerError:
    """For a call that this side has ended."""
    return ServerError("the call was cancelled", code="CANCELLED")


def closed() -> ServerError:
    """For a call on a client that is closed."""
    return ServerError("the client is closed", code="CANCELLED")


def again(error: ServerError) -> ServerError:
    """An equal one, for another caller: each has the traceback of its own."""
    return copy.copy(error)


def _make_bare(kind: type[ServerError], texts: tuple[str, ...]) -> ServerError:
    """Without its facts, which follow."""
    return kind.__new__(kind, *texts)


def _read_details(details: Iterable[Any]) -> dict[str, Any]:
    """The attached messages by name, ErrorInfo only when it is our server's; none when they cannot be read."""
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
