"""A closed client refuses every call alike, at whatever moment it is closed."""

from typing import Any

import pytest
from tests.server.client._async.conftest import Naps, read
from tests.server.fake_service import FakeService

from carousel.client import AsyncClient, ServerError
from carousel.client.wires.aio import WireOptions

ASKS: dict[str, Any] = {
    "tokenize": lambda client: client.tokenize("a"),
    "create_session": lambda client: client.create_session(),
    "is_serving": lambda client: client.is_serving(),
    "list_sessions": lambda client: read(client.list_sessions()),
    "watch": lambda client: client.watch(),
    "predict": lambda client: client.predict("a"),
    "predict alone": lambda client: client.predict("a", metadata=[("mark", "m")]),
    "feed": lambda client: client.open_session("mine").feed("a"),
    "predict in a session": lambda client: client.open_session("mine").predict("a"),
}


@pytest.mark.parametrize("has_worked", [False, True])
@pytest.mark.parametrize("name", ASKS)
async def test_a_closed_client_refuses_every_call(
    address: str, service: FakeService, of_wire: WireOptions, name: str, has_worked: bool
) -> None:
    """All calls raise the same error, also when that call was never made before."""
    client = AsyncClient(address, **of_wire)
    await client.create_session("mine")
    if has_worked:
        await ASKS[name](client)
    await client.close()
    for _ in range(2):
        with pytest.raises(ServerError, match="the client is closed") as caught:
            await ASKS[name](client)
        assert (caught.value.code, caught.value.reason) == ("CANCELLED", "")


async def test_a_client_closed_unused_refuses_calls(of_wire: WireOptions) -> None:
    """This client never had a connection."""
    client = AsyncClient("127.0.0.1:1", **of_wire)
    await client.close()
    await client.close()
    with pytest.raises(ServerError, match="the client is closed"):
        await client.tokenize("a")


@pytest.mark.parametrize("turn", ["feed", "predict", "plain"])
async def test_a_turn_whose_client_is_closed_meanwhile_is_not_repeated(
    client: AsyncClient, service: FakeService, naps: Naps, turn: str
) -> None:
    """During its pause before a retry, the turn gets the same error as a new call."""
    session = client.open_session((await client.create_session()).session_id)
    asks: dict[str, Any] = {"feed": session.feed, "predict": session.predict, "plain": client.predict}
    naps.meanwhile.append(client.close)
    with pytest.raises(ServerError, match="the client is closed") as caught:
        await asks[turn]("overload")
    assert caught.value.code == "CANCELLED"
    assert len(naps.seconds) == 1


async def test_a_client_closed_in_a_session_block_does_not_hide_the_error(client: AsyncClient) -> None:
    """The session can no longer be deleted; the block's own error is raised."""

    async def close_and_fail() -> None:
        async with client.session():
            await client.close()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await close_and_fail()
