"""A tiny server of the wire contract."""

from collections.abc import Iterator

import pytest
from tests.server.fake_service import FakeService, serve_fake


@pytest.fixture
def fake() -> Iterator[tuple[str, FakeService]]:
    """Yields the address and the service."""
    with serve_fake() as (address, service, _):
        yield address, service


@pytest.fixture
def address(fake: tuple[str, FakeService]) -> str:
    return fake[0]


@pytest.fixture
def service(fake: tuple[str, FakeService]) -> FakeService:
    return fake[1]
