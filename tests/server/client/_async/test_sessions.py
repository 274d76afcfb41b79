"""The turns of a session are numbered, and expect the position of its last answer."""

import uuid

import pytest
from tests.server.client._async.conftest import Naps, read
from tests.server.client.running.aio import happens
from tests.server.fake_service import HANG, FakeService, Mishap

from carousel.client import AsyncClient, AsyncSession, ServerError
from carousel.errors import AnswerGone


async def test_a_session_numbers_its_turns(client: AsyncClient, service: FakeService) -> None:
    """Each turn has its own id and expects the position of the last answer; a generation has a seed."""
    async with client.session() as session:
        await session.feed("ab")
        await read(session.generate("c", max_tokens=2))
        await read(session.score("d"))
        await session.predict("e")
        assert session.position == 7
    requests = service.requests
    assert [request.expected_position for request in requests] == [0, 2, 5, 6]
    assert all(request.HasField("expected_position") for request in requests)
    assert len({uuid.UUID(request.request_id) for request in requests}) == 4
    assert requests[1].sampling.HasField("seed")


async def test_what_the_caller_sets_stays(client: AsyncClient, service: FakeService) -> None:
    """These are an id that outlives the process, an expectation and a seed."""
    async with client.session() as session:
        await read(session.generate("a", request_id="mine", expected_position=0, seed=3))
    assert service.requests[0].request_id == "mine"
    assert service.requests[0].sampling.seed == 3


async def test_a_session_found_again_expects_nothing_at_first(client: AsyncClient, service: FakeService) -> None:
    """Its first answer brings the position, and so does `get`."""
    await client.create_session("old")
    found, other = client.open_session("old"), client.open_session("old")
    assert found.position is None
    await found.feed("abc")
    assert not service.requests[0].HasField("expected_position")
    assert found.position == (await other.get()).position == other.position == 3


async def test_turns_at_once_expect_nothing(client: AsyncClient, service: FakeService) -> None:
    """The server decides their order; afterwards `get` returns the position."""
    async with client.session() as session:
        first = session.generate("a", max_tokens=1)
        await read(session.generate("b", max_tokens=1))
        await read(first)
        assert [request.HasField("expected_position") for request in service.requests].count(True) <= 1
        assert session.position is None
        assert (await session.get()).position == session.position == 4


async def test_a_stream_that_is_given_up_leaves_no_expectation(client: AsyncClient, service: FakeService) -> None:
    """The turn may or may not be applied: the next turn continues from either position."""
    async with client.session() as session:
        await session.feed("a")
        stream = session.generate(HANG)
        await anext(stream)
        await stream.close()
        assert session.position is None
        assert await happens(service.is_cancelled)
        await session.feed("b")
        assert not service.requests[-1].HasField("expected_position")
        assert session.position == 2


async def test_a_closed_stream_is_given_up(session: AsyncSession, service: FakeService) -> None:
    """Its turn no longer counts as running, although the stream object still exists: the next answer sets the
    position."""
    stream = session.generate(HANG)
    await anext(stream)
    await stream.close()
    assert session.position is None
    assert (await session.get()).position == session.position == 0
    assert await happens(service.is_cancelled)
    assert await session.feed("a") == 1
    assert service.requests[-1].HasField("expected_position")


async def test_a_turn_that_cannot_be_said_leaves_the_position(session: AsyncSession) -> None:
    """The wire cannot express the value: nothing was sent."""
    await session.feed("a")
    with pytest.raises(ValueError, match="content"):
        session.generate("a", content="words")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        session.score(3)  # type: ignore[arg-type]
    assert session.position == 1


async def test_a_lost_record_is_told_with_the_position(client: AsyncClient, service: FakeService) -> None:
    """The turn was applied but its record is lost: the error contains the position, from which `get` continues."""
    async with client.session() as session:
        service.mishaps = [Mishap(1, is_applied=True)]
        stream = session.generate("a", max_tokens=2)
        assert (await anext(stream)).text == "b"
        service.forget_answers(with_ids=True)
        with pytest.raises(ServerError) as caught:
            await read(stream)
        assert (caught.value.code, caught.value.reason, caught.value.position) == ("ABORTED", "POSITION_MISMATCH", 3)
        with pytest.raises(ServerError, match="at position 3, not 0"):
            await session.feed("b")
        assert (await session.get()).position == 3
        assert await session.feed("b") == 4


async def test_an_answer_that_is_gone_leaves_the_position_known(
    client: AsyncClient, service: FakeService, naps: Naps
) -> None:
    """ANSWER_GONE is final and means that the turn was applied: the next one expects the session's current position."""
    async with client.session() as session:
        service.mishaps = [Mishap(1, is_applied=True)]
        stream = session.generate("a", max_tokens=2)
        assert (await anext(stream)).text == "b"
        service.forget_answers()
        with pytest.raises(ServerError) as caught:
            await anext(stream)
        assert (caught.value.reason, caught.value.position) == ("ANSWER_GONE", 3)
        assert session.position == 3
        assert len(naps.seconds) == 1
        assert await session.feed("b") == 4
        assert service.requests[-1].expected_position == 3


async def test_an_answer_that_is_gone_may_leave_the_position_unknown(client: AsyncClient, service: FakeService) -> None:
    """The server does not report the position: the client sends no expectation rather than the old one."""
    async with client.session() as session:
        service.mishaps = [Mishap(error=AnswerGone("no longer kept"))]
        with pytest.raises(ServerError, match="no longer kept"):
            await session.feed("a")
        assert session.position is None
