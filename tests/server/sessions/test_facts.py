"""A failed call's log line has reason, place and caller, and no text that a caller could write."""

import subprocess

import pytest

from carousel.errors import InvalidRequest, Overloaded, PermissionDenied, SessionNotFound
from carousel.rpc.reading import UNREADABLE
from carousel.sessions import facts
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

PEER = "ipv4:127.0.0.1:5"


def test_all_is_told() -> None:
    """The line has reason, field, the session as a hash, request id and peer."""
    request = wire.GenerateRequest(session_id="s", request_id="r-1")
    found = facts.of_failure(request, PEER, InvalidRequest("sampling.logit_bias[7]", "no"))
    session = found.pop("session")
    assert found == {
        "peer": PEER,
        "reason": "INVALID_REQUEST",
        "field": "sampling.logit_bias[7]",
        "request_id": "r-1",
    }
    said = subprocess.run(["b2sum", "-l", "64"], input=b"s", capture_output=True, check=True).stdout
    assert session == said.split()[0].decode()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Overloaded("no", limit="max_streams", retry_seconds=1), {"reason": "OVERLOADED", "limit": "max_streams"}),
        (SessionNotFound("a secret"), {"reason": "SESSION_NOT_FOUND"}),
        (PermissionDenied("a secret", principal="ops"), {"reason": "PERMISSION_DENIED", "principal": "ops"}),
        (RuntimeError("a secret"), {"reason": "INTERNAL"}),
        (None, {}),
    ],
)
def test_errors_are_told_by_their_reason(error: Exception | None, expected: dict[str, str]) -> None:
    """The line never has an error's text; a call that was given up has no reason."""
    for request in (None, UNREADABLE, wire.GenerateRequest(), sessions_pb2.WatchSessionsRequest()):
        assert facts.of_failure(request, PEER, error) == {"peer": PEER} | expected


@pytest.mark.parametrize("bad", ["a secret", "x" * 65, "a\nb", "é", "a\0"])
def test_what_has_no_proper_form_is_not_logged(bad: str) -> None:
    """Request ids, peers and fields of another form are `invalid`; the session is always a hash."""
    found = facts.of_failure(
        wire.GenerateRequest(session_id=bad, request_id=bad), bad if len(bad) < 60 else bad * 2, InvalidRequest(bad, "")
    )
    assert found["request_id"] == found["peer"] == "invalid"
    assert found["field"] == "invalid" or bad == "x" * 65
    assert len(found["session"]) == 16


@pytest.mark.parametrize("peer", ["ipv4:127.0.0.1:50051", "ipv6:%5B::1%5D:80", "unix:/run/carousel.sock", "unix:"])
def test_the_peers_that_grpc_knows_are_told(peer: str) -> None:
    """The line has them as gRPC writes them."""
    assert facts.of_failure(None, peer, None) == {"peer": peer}
