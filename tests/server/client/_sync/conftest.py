# Generated from tests/server/client/_async/conftest.py by `make client`: change that file, not this one.
"""A client of the tiny server, and a session of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.server.client.running.blocking import WIRES

from carousel.client import Client, Session
from carousel.client.wires.blocking import WireOptions


class Naps:
    """The client's sleep in tests: it counts the pauses, and runs the next of `meanwhile`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.meanwhile: list[Callable[[], Any]] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture(params=WIRES, ids=str)
def of_wire(request: pytest.FixtureRequest) -> WireOptions:
    """The options of the client's wire."""
    options: WireOptions = request.param
    return options


@pytest.fixture
def client(address: str, naps: Naps, of_wire: WireOptions) -> Iterator[Client]:
    with Client(address, timeout_seconds=20, sleep=naps, **of_wire) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    """The session's id is mine."""
    made = client.create_session("mine")
    return client.open_session(made.session_id, position=made.position)


def read(stream: Any) -> list[Any]:
    """Returns all answers of the stream."""
    return [answer for answer in stream]
