"""A session over a real port ends with a typed reason, for its owner alone."""

import itertools
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from tests.server_process import ServerProcess, serve
from tests.system.persistent_sessions import call_as, failure

from carousel.client import Client

pytestmark = pytest.mark.slow


def test_a_deleted_session_says_so(client: Client) -> None:
    """The owner gets NOT_FOUND as for an unknown session, with the kind and time of the end."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    with client.session() as session:
        session.delete()
        error = failure(lambda: session.feed("x"))
    assert (error.code, error.reason, error.ending) == ("NOT_FOUND", "SESSION_DELETED", "deleted")
    assert error.ended_at is not None
    assert before <= error.ended_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert failure(lambda: client.get_session("never")).reason == "SESSION_NOT_FOUND"


def test_an_unused_session_expires_and_says_so(bundle: Path) -> None:
    """The watcher gets the event, and a later caller gets the reason and the time."""
    with serve(bundle, "--set", "session_idle_seconds=0.2") as server, Client(server.grpc_address) as client:
        with client.watch(timeout_seconds=30) as events:
            made = client.create_session("short")
            assert [next(events).kind for _ in range(2)] == ["created", "expired"]
        error = failure(lambda: list(client.generate("x", session_id=made.session_id)))
    assert (error.code, error.reason, error.ending) == ("FAILED_PRECONDITION", "SESSION_EXPIRED", "idle")
    assert error.ended_at is not None
    assert error.ended_at >= made.expire_time


def test_an_evicted_session_says_so(bundle: Path) -> None:
    """The least recently used session makes room, its watcher gets the event, and its owner gets the reason."""
    with serve(bundle, "--set", "max_sessions=2") as server, Client(server.grpc_address) as client:
        for name in ("old", "used"):
            client.create_session(name)
        list(client.generate("x", session_id="old", max_tokens=1))
        with client.watch(timeout_seconds=30) as events:
            client.create_session("new")
            seen = {(event.kind, event.session_id) for event in itertools.islice(events, 2)}
        assert seen == {("evicted", "used"), ("created", "new")}
        error = failure(lambda: client.get_session("used"))
        assert (error.code, error.reason, error.ending) == ("FAILED_PRECONDITION", "SESSION_EVICTED", "evicted")
        assert {one.session_id for one in client.list_sessions()} == {"old", "new"}


def test_watchers_hear_of_their_own_sessions_alone(sealing: ServerProcess) -> None:
    """Other owners' events stay hidden."""
    with call_as(sealing, "ann") as ann, call_as(sealing, "ben") as ben, ann.watch(timeout_seconds=30) as events:
        with ben.session(), ann.session("hers"):
            pass
        assert [(event.kind, event.session_id) for event in itertools.islice(events, 2)] == [
            ("created", "hers"),
            ("deleted", "hers"),
        ]


def test_a_stranger_cannot_tell_a_session_from_none(sealing: ServerProcess) -> None:
    """Every call on another owner's session fails as on an unknown one; so does one on an ended session of that
    owner."""
    with (
        call_as(sealing, "ann") as ann,
        call_as(sealing, "ben") as ben,
        ann.session() as session,
        ann.session() as ended,
    ):
        ended.delete()
        for name in (session.session_id, ended.session_id):
            for attempt in (ben.get_session, ben.delete_session, ben.fork_session, ben.get_history, ben.export_session):
                error = failure(partial(attempt, name))
                assert (error.code, error.reason, str(error)) == (
                    "NOT_FOUND",
                    "SESSION_NOT_FOUND",
                    f"there is no session {name}",
                )
        assert session.get().position == 0
