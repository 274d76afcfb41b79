"""A caller sees the states of a reading by the names of their tensors, and his session does not move."""

from typing import Any

import pytest
from tests.server.client._async.conftest import read
from tests.server.fake_service import FakeService, Mishap

from carousel.client import (
    AsyncClient,
    AsyncSession,
    Candidate,
    Inspected,
    InspectedToken,
    ServerError,
    ServerUnreachable,
)


def told(moments: list[Inspected], name: str) -> list[Any]:
    return [moment.values[name].tolist() for moment in moments]


async def test_states_have_the_names_and_shapes_of_their_tensors(session: AsyncSession) -> None:
    """Only the first answer tells them. The session's next turn expects what it expected before."""
    await session.feed("abc")
    moments = await read(session.inspect("de"))
    assert [moment.position for moment in moments] == [3, 4, 5]
    assert told(moments, "half") == [[[1.5, -3]], [[2, -4]], [[2.5, -5]]]
    assert told(moments, "count") == [3, 4, 5]
    tokens = [InspectedToken(ord(one), "x", -1, 2, (Candidate(7, -0.5, "y"),)) for one in "de"]
    assert [moment.token for moment in moments] == [None, *tokens]
    assert session.position == 3


async def test_two_readings_at_once_know_their_own_tensors(client: AsyncClient) -> None:
    """Each remembers its first answer."""
    one, other = client.inspect("ab"), client.inspect("c")
    moments = [await anext(one), await anext(other), await anext(one), await anext(other)]
    assert told(moments, "count") == [0, 0, 1, 1]
    await one.close()
    await other.close()


async def test_a_reading_is_made_once(session: AsyncSession, service: FakeService) -> None:
    """Its states would begin again."""
    service.mishaps = [Mishap(1)]
    with pytest.raises(ServerUnreachable):
        await read(session.inspect("ab"))
    assert [one.method for one in service.seen].count("InspectSession") == 1


async def test_one_place_to_start(client: AsyncClient) -> None:
    """A position and a checkpoint together are refused here, an unknown session by the server."""
    with pytest.raises(ValueError, match="not both"):
        client.inspect("a", session_id="mine", position=1, checkpoint="here")
    with pytest.raises(ServerError) as caught:
        await read(client.inspect("a", session_id="nobody"))
    assert caught.value.reason == "SESSION_NOT_FOUND"
