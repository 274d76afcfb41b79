"""A tiny server of the wire contract, and clients of it."""

from collections.abc import Iterator

import pytest
from tests.server.fake_service import FakeService, serve_fake

from carousel.client import (
    Client,
)


@pytest.fixture
def fake() -> Iterator[tuple[str, FakeService]]:
    with serve_fake() as (address, service, _):
        yield address, service


@pytest.fixture
def client(fake: tuple[str, FakeService]) -> Iterator[Client]:
    with Client(fake[0], timeout_seconds=20) as client:
        yield client


@pytest.fixture
def service(fake: tuple[str, FakeService]) -> FakeService:
    return fake[1]


class Naps:
    """Sleeps that only count."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)

    async def later(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def patient(fake: tuple[str, FakeService], naps: Naps) -> Iterator[Client]:
    """A client that repeats without waiting."""
    with Client(fake[0], timeout_seconds=20, sleep=naps) as client:
        yield client
