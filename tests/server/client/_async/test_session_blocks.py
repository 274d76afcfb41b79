"""A session lives as long as its block."""

import pytest
from tests.server.client._async.conftest import read
from tests.server.fake_service import FakeService

from carousel.client import AsyncClient, ServerError


async def test_a_session_lives_as_long_as_its_block(client: AsyncClient, service: FakeService) -> None:
    """It is created at the start, carries its position over the calls, and is deleted at the end."""
    async with client.session("mine") as session:
        assert await session.feed("abc") == 3
        assert [piece.text for piece in await read(session.generate("d", max_tokens=2))] == ["e", "f", ""]
        await session.predict("ef", k=1)
        assert await read(session.score("g"))
        async with session.predictor() as predict:
            await predict("h")
        assert (await session.get()).position == session.position == 10
    assert service.positions == {}
    with pytest.raises(ServerError, match="deleted"):
        await session.delete()


async def test_a_kept_session_stays(client: AsyncClient, service: FakeService) -> None:
    """With keep=True the end of the block deletes nothing."""
    async with client.session(keep=True) as session:
        await session.feed("abc")
    assert service.positions == {session.session_id: 3}


async def test_a_session_that_is_gone_does_not_hide_the_error(client: AsyncClient) -> None:
    """The block's own error is raised, also when the deletion at its end fails."""

    async def fail_after_deleting() -> None:
        async with client.session() as session:
            await session.delete()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail_after_deleting()
