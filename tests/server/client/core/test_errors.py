"""What a failed call means: its code and the server's reason decide, never a text."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from carousel.client import AnswerChanged, FieldViolation, ServerError, ServerUnreachable
from carousel.client.core.errors import again, read_error
from carousel.client.core.retries import is_repeatable

FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
BROKEN = {"UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED"}
OURS = error_details_pb2.ErrorInfo(reason="WHATEVER", domain="carousel", metadata={"a": "b"})
FOREIGN = error_details_pb2.ErrorInfo(reason="SESSION_MOVED", domain="example.com", metadata={"a": "b"})
SOON = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2))
TORN = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")


@dataclass(frozen=True)
class Failed:
    """A failed call in the form of grpc."""

    status: grpc.StatusCode
    attached: bytes | None = None

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return "layer: text"

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return [] if self.attached is None else [("grpc-status-details-bin", self.attached)]


def _fail(code: grpc.StatusCode, *details: message.Message) -> Failed:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message="layer: text", details=packed)
    return Failed(code, status.SerializeToString())


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("attached", [(), (FOREIGN, SOON), (SOON,)])
def test_without_our_word_the_code_decides(code: grpc.StatusCode, attached: tuple[message.Message, ...]) -> None:
    """The four codes of broken connections are retried; everything else is final."""
    error = read_error(_fail(code, *attached), "here:1")
    assert isinstance(error, ServerUnreachable) == (code.name in BROKEN)
    assert is_repeatable(error) == (code.name in BROKEN)
    assert (error.reason, error.details, error.retry_after_seconds) == ("", {}, None)
    assert error.code == ("UNAVAILABLE" if code.name in BROKEN else code.name)
    assert str(error) == ("the server at here:1 does not answer: text" if code.name in BROKEN else "layer: text")


@pytest.mark.parametrize("code", FAILURES)
def test_with_our_word_the_reason_decides(code: grpc.StatusCode) -> None:
    """The server has answered: nothing is broken. It answers UNAVAILABLE where a retry may help."""
    error = read_error(_fail(code, OURS), "here:1")
    assert not isinstance(error, ServerUnreachable)
    assert (error.code, error.reason, error.details, str(error)) == (code.name, "WHATEVER", {"a": "b"}, "layer: text")
    assert is_repeatable(error) == (code.name == "UNAVAILABLE")


@pytest.mark.parametrize(
    ("code", "reason", "attached", "wanted"),
    [
        ("ABORTED", "SESSION_MOVED", [], True),
        ("ABORTED", "POSITION_MISMATCH", [], False),
        ("UNAVAILABLE", "STORE_UNAVAILABLE", [SOON], True),
        ("UNAVAILABLE", "SHUTTING_DOWN", [], True),
        ("RESOURCE_EXHAUSTED", "OVERLOADED", [SOON], True),
        ("RESOURCE_EXHAUSTED", "OVERLOADED", [], False),
        ("INTERNAL", "MODEL_FAILED", [], False),
        ("INTERNAL", "INTERNAL", [], False),
        ("FAILED_PRECONDITION", "ANSWER_GONE", [], False),
        ("INVALID_ARGUMENT", "MESSAGE_INVALID", [], False),
        ("UNAUTHENTICATED", "UNAUTHENTICATED", [], False),
    ],
)
def test_what_the_server_says_is_repeated_or_final(
    code: str, reason: str, attached: list[message.Message], wanted: bool
) -> None:
    """The reason decides; for overload, the retry time does."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="carousel")
    error = read_error(_fail(grpc.StatusCode[code], info, *attached), "here:1")
    assert is_repeatable(error) is wanted
    assert error.retry_after_seconds == (2.0 if attached else None)


def test_what_this_side_ended_is_not_broken() -> None:
    """A call that was cancelled here stays cancelled; any other code still comes from the connection."""
    error = read_error(Failed(grpc.StatusCode.CANCELLED), "here:1", is_ours=True)
    assert (type(error), error.code, is_repeatable(error)) == (ServerError, "CANCELLED", False)
    assert isinstance(read_error(Failed(grpc.StatusCode.UNKNOWN), "here:1", is_ours=True), ServerUnreachable)


@pytest.mark.parametrize(
    "attached",
    [
        b"\xff\xff\xff",
        status_pb2.Status(
            code=13, details=[any_pb2.Any(type_url="x/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
        _fail(grpc.StatusCode.NOT_FOUND, OURS).attached,
    ],
)
def test_details_that_cannot_be_believed_do_not_count(attached: bytes) -> None:
    """These are bytes that are no message, inside or outside, or that contradict the status."""
    assert isinstance(read_error(Failed(grpc.StatusCode.INTERNAL, attached), "here:1"), ServerUnreachable)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("errors resolving a: [A:b: Domain name not found]", "Domain name not found"),
        ("connection attempt timed out [peer]", "connection attempt timed out [peer]"),
        ("connections to all backends failing: ]", "no reason given"),
        ("", "no message"),
    ],
)
def test_a_cause_carries_no_bracket_of_what_stood_before_it(text: str, cause: str) -> None:
    """The library's layers are removed, with their closing brackets; a pair stays."""

    class Told(Failed):
        def details(self) -> str:
            return text

    error = read_error(Told(grpc.StatusCode.UNAVAILABLE), "here:1")
    assert str(error) == f"the server at here:1 does not answer: {cause}"


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error)), again])
@pytest.mark.parametrize(
    "error",
    [
        ServerError(
            "text",
            code="ABORTED",
            reason="POSITION_MISMATCH",
            violations=(FieldViolation("field", "odd"),),
            retry_after_seconds=0.5,
            details={"position": "3"},
        ),
        ServerUnreachable("here:1", "layer: gone"),
        AnswerChanged(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_copy_says_the_same(error: ServerError, remake: Callable[[ServerError], ServerError]) -> None:
    """This holds for each kind, in this process or another; the copy is a different object."""
    made = remake(error)
    assert (type(made), str(made), made.args, vars(made)) == (type(error), str(error), error.args, vars(error))
    assert made is not error
