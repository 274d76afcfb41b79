# Generated from tests/server/client/_async/test_odd_options.py by `make client`: change that file, not this one.
"""Extreme options mean the same for every call, over every wire."""

import math
from typing import Any

import pytest
from tests.server.client._sync.conftest import read
from tests.server.fake_service import FakeService

from carousel.client import Client, ServerError, Session
from carousel.client.wires.blocking import WireOptions

ASKS: dict[str, Any] = {
    "model": lambda client, session, **o: client.model(**o),
    "create": lambda client, session, **o: client.create_session(**o),
    "generate": lambda client, session, **o: read(client.generate("a", **o)),
    "predict": lambda client, session, **o: client.predict("a", **o),
    "feed": lambda client, session, **o: session.feed("a", **o),
    "predict in a session": lambda client, session, **o: session.predict("a", **o),
}


@pytest.mark.parametrize("seconds", [math.inf, 1e18, 1e10])
@pytest.mark.parametrize("name", ASKS)
def test_a_time_without_end_is_none(
    client: Client, session: Session, service: FakeService, name: str, seconds: float
) -> None:
    """These are infinity and times beyond any lifetime."""
    ASKS[name](client, session, timeout_seconds=seconds)
    assert len(service.seen) == 2


@pytest.mark.parametrize("seconds", [0, -1, -1e300])
@pytest.mark.parametrize("name", ASKS)
def test_a_time_that_is_over_ends_a_call_before_it_is_made(
    client: Client, session: Session, service: FakeService, name: str, seconds: float
) -> None:
    """The server receives nothing, and the session is unchanged."""
    with pytest.raises(ServerError) as caught:
        ASKS[name](client, session, timeout_seconds=seconds)
    assert (caught.value.code, caught.value.reason) == ("DEADLINE_EXCEEDED", "")
    assert len(service.seen) == 1
    assert session.position == 0


WRONG: list[tuple[type[Exception], dict[str, Any]]] = [
    (ValueError, {"timeout_seconds": math.nan}),
    (TypeError, {"timeout_seconds": "5"}),
    (TypeError, {"metadata": [("key", 5)]}),
    (TypeError, {"metadata": [("key-bin", "text")]}),
    (ValueError, {"metadata": [("Key", "value")]}),
    (ValueError, {"metadata": [("key", "value\n")]}),
]


@pytest.mark.parametrize(("kind", "options"), WRONG)
@pytest.mark.parametrize("name", ASKS)
def test_options_that_make_no_sense_are_refused_at_once(
    client: Client,
    session: Session,
    service: FakeService,
    name: str,
    kind: type[Exception],
    options: dict[str, Any],
) -> None:
    """Nothing waits, no call is made, and the session is unchanged."""
    with pytest.raises(kind):
        ASKS[name](client, session, **options)
    assert len(service.seen) == 1
    assert session.position == 0
    assert session.feed("a") == 1


@pytest.mark.parametrize(("kind", "options"), WRONG)
def test_a_client_with_options_that_make_no_sense_is_not_made(
    of_wire: WireOptions, kind: type[Exception], options: dict[str, Any]
) -> None:
    """This checks the client's options for all calls."""
    with pytest.raises(kind):
        Client("127.0.0.1:1", **options, **of_wire)
