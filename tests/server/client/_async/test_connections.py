"""A client may have several connections: for servers that share a port, and get connections, not calls."""

from collections.abc import AsyncIterator

import pytest
from tests.server.client._async.conftest import read
from tests.server.fake_service import FakeService

from carousel.client import AsyncClient
from carousel.client.wires.aio import WireOptions

NUM_CONNECTIONS = 4


@pytest.fixture
async def client(address: str, of_wire: WireOptions) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, timeout_seconds=20, connections=NUM_CONNECTIONS, **of_wire) as client:
        yield client


def peers(service: FakeService, *methods: str) -> list[str]:
    """Who has made the calls of these methods, in order."""
    return [seen.peer for seen in service.seen if seen.method in methods]


async def test_calls_take_turns(client: AsyncClient, service: FakeService) -> None:
    """Each connection has as many of them as the others, one after the other."""
    for _ in range(2 * NUM_CONNECTIONS):
        await client.models()
    found = peers(service, "ListModels")
    assert len(set(found)) == NUM_CONNECTIONS
    assert found[:NUM_CONNECTIONS] == found[NUM_CONNECTIONS:]


async def test_a_session_keeps_to_one_connection(client: AsyncClient, service: FakeService) -> None:
    """Whoever holds it need not give it to another: also its creation, its turns, its questions and its end."""
    for name in "abcdefgh":
        async with client.session(name) as session:
            await session.feed("x")
            await read(session.generate("y", max_tokens=1))
            await session.get()
        calls = [seen.peer for seen in service.seen if getattr(seen.request, "session_id", "") == name]
        assert len(calls) >= 3
        assert len(set(calls)) == 1
    assert len(set(peers(service, "GetSession"))) > 1


async def test_streams_of_their_own_take_turns(client: AsyncClient, service: FakeService) -> None:
    """A predictor without a session may be anywhere, and stays on its stream. Shared streams have a test elsewhere."""
    for _ in range(NUM_CONNECTIONS):
        await client.predict("a")
    found = peers(service, "Predict")
    assert len(set(found)) == len(found)


async def test_one_connection_is_what_a_client_has_otherwise(address: str, service: FakeService) -> None:
    """So a server sees one peer, whatever is called."""
    async with AsyncClient(address, timeout_seconds=20) as client:
        for name in "abcd":
            await client.create_session(name)
            await client.models()
    assert len({seen.peer for seen in service.seen}) == 1


@pytest.mark.parametrize("number", [0, -1])
async def test_none_is_too_few(number: int) -> None:
    """The error names what is wrong."""
    with pytest.raises(ValueError, match="connections: must be at least 1"):
        AsyncClient("here:1", connections=number)
