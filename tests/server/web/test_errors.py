"""Errors have HTTP statuses, and say what to do where HTTP has a header for it."""

from carousel.errors import Overloaded, PermissionDenied, SettingsInvalid, Unauthenticated
from carousel.web.errors import to_response


def test_who_is_unknown_is_told_how_to_be_known() -> None:
    """As HTTP demands of a 401."""
    response = to_response(Unauthenticated("who?"))
    assert (response.status_code, response.headers["www-authenticate"], response.body) == (401, "Bearer", b"who?\n")


def test_who_may_not_is_told_so() -> None:
    """Another identity would be no better answer, so none is asked for."""
    response = to_response(PermissionDenied("no"))
    assert response.status_code == 403
    assert "www-authenticate" not in response.headers


def test_who_is_too_fast_is_told_how_long_to_wait() -> None:
    """In whole seconds, never too early."""
    response = to_response(Overloaded("slower", limit="wrong_attempts", retry_seconds=1.2))
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")


def test_another_error_is_not_told() -> None:
    """Its text was not meant for this client."""
    response = to_response(SettingsInvalid("swordfish"))
    assert (response.status_code, response.body) == (500, b"internal error\n")
