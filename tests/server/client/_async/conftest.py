"""A client of the tiny server, and a session of it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.server.client.running.aio import WIRES

from carousel.client import AsyncClient, AsyncSession
from carousel.client.wires.aio import WireOptions


class Naps:
    """The client's sleep in tests: it counts the pauses, and runs the next of `meanwhile`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.meanwhile: list[Callable[[], Any]] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if self.meanwhile:
            await self.meanwhile.pop(0)()


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture(params=WIRES, ids=str)
def of_wire(request: pytest.FixtureRequest) -> WireOptions:
    """The options of the client's wire."""
    options: WireOptions = request.param
    return options


@pytest.fixture
async def client(address: str, naps: Naps, of_wire: WireOptions) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, timeout_seconds=20, sleep=naps, **of_wire) as client:
        yield client


@pytest.fixture
async def session(client: AsyncClient) -> AsyncSession:
    """The session's id is mine."""
    made = await client.create_session("mine")
    return client.open_session(made.session_id, position=made.position)


async def read(stream: Any) -> list[Any]:
    """Returns all answers of the stream."""
    return [answer async for answer in stream]
