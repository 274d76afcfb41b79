"""Each domain error has one code and its facts; the text of any other error stays inside."""

import inspect

import pytest
from google.rpc import code_pb2, error_details_pb2

from carousel import errors
from carousel.rpc.errors import CODES, DOMAIN, to_status

NEVER_MET = {
    errors.BundleInvalid,
    errors.ProviderUnavailable,
    errors.SettingsInvalid,
    errors.StoreInvalid,  # these four only occur at the start
    errors.ChatTemplateMissing,  # HTTP alone has messages
}
EXAMPLES = [
    (errors.InvalidRequest("top_k", "no"), "INVALID_ARGUMENT"),
    (errors.MessageInvalid("no"), "INVALID_ARGUMENT"),
    (errors.Unauthenticated("no"), "UNAUTHENTICATED"),
    (errors.PermissionDenied("no"), "PERMISSION_DENIED"),
    (errors.SessionNotFound("no"), "NOT_FOUND"),
    (errors.ModelNotFound("no"), "NOT_FOUND"),
    (errors.SessionExists("no"), "ALREADY_EXISTS"),
    (errors.SessionEnded("no"), "NOT_FOUND"),
    (errors.SessionExpired("no", ending="idle", ended_at="1.000"), "FAILED_PRECONDITION"),
    (errors.SessionEvicted("no", ending="evicted", ended_at="1.000"), "FAILED_PRECONDITION"),
    (errors.SessionDeleted("no", ending="deleted", ended_at="1.000"), "NOT_FOUND"),
    (errors.SessionMoved("no"), "ABORTED"),
    (errors.PositionMismatch(3, 5), "ABORTED"),
    (errors.PositionUnknown("no"), "FAILED_PRECONDITION"),
    (errors.AnswerGone("no"), "FAILED_PRECONDITION"),
    (errors.StateInvalid("no"), "FAILED_PRECONDITION"),
    (errors.StateRefused("no", why="expired"), "FAILED_PRECONDITION"),
    (errors.StoreUnavailable("no"), "UNAVAILABLE"),
    (errors.FiguresUnavailable("no"), "UNAVAILABLE"),
    (errors.Overloaded("no", limit="max_lanes", retry_seconds=1.5), "RESOURCE_EXHAUSTED"),
    (errors.ShuttingDown("no"), "UNAVAILABLE"),
    (errors.ModelFailed("no"), "INTERNAL"),
]


def info_of(error: Exception) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert to_status(error).details[0].Unpack(info)
    return info


def test_no_domain_error_was_forgotten() -> None:
    """Every error that a call can meet is in the table, and has an example here."""
    all_of_them = {
        one
        for _, one in inspect.getmembers(errors, inspect.isclass)
        if issubclass(one, errors.CarouselError) and one is not errors.CarouselError
    }
    assert set(CODES) == all_of_them - NEVER_MET == {type(error) for error, _ in EXAMPLES}
    assert len({one.reason for one in all_of_them}) == len(all_of_them)


@pytest.mark.parametrize(("error", "code"), EXAMPLES)
def test_a_domain_error_keeps_its_message_reason_and_facts(error: errors.CarouselError, code: str) -> None:
    """Code, message, and an ErrorInfo with reason, domain and details."""
    status = to_status(error)
    info = info_of(error)
    assert (code_pb2.Code.Name(status.code), status.message) == (code, str(error))
    assert (info.reason, info.domain, dict(info.metadata)) == (error.reason, DOMAIN, error.details)


def test_a_bad_field_is_named() -> None:
    """InvalidRequest brings a BadRequest."""
    bad = error_details_pb2.BadRequest()
    assert to_status(errors.InvalidRequest("a.b", "no")).details[1].Unpack(bad)
    assert [(one.field, one.description) for one in bad.field_violations] == [("a.b", "a.b: no")]


@pytest.mark.parametrize(
    ("error", "milliseconds"),
    [(errors.Overloaded("no", limit="x", retry_seconds=1.5), 1500), (errors.StoreUnavailable("no"), 1000)],
)
def test_what_will_pass_says_when_to_come_back(error: errors.CarouselError, milliseconds: int) -> None:
    """Overload and a store that does not answer bring a RetryInfo."""
    retry = error_details_pb2.RetryInfo()
    assert to_status(error).details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == milliseconds


@pytest.mark.parametrize(
    "error", [RuntimeError("swordfish"), KeyError("swordfish"), errors.BundleInvalid("swordfish"), ValueError()]
)
def test_other_errors_keep_their_text(error: Exception) -> None:
    """What was not meant for callers is INTERNAL with a reason and nothing more."""
    status = to_status(error)
    assert (status.code, status.message) == (code_pb2.INTERNAL, "internal error")
    assert info_of(error).reason == "INTERNAL"
    assert b"swordfish" not in status.SerializeToString()


def test_a_long_message_is_shortened() -> None:
    """A message that contains what the caller sent fits into trailers and keeps its beginning."""
    for error in (errors.SessionNotFound("there is no " + "é" * 100_000), errors.InvalidRequest("f", "x" * 100_000)):
        status = to_status(error)
        assert len(status.SerializeToString()) < 4000
        assert str(error).startswith(status.message.removesuffix("..."))
