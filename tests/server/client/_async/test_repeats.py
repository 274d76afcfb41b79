"""A failed turn is retried and applied once, and its stream continues where it stopped."""

from collections.abc import Iterable

import pytest
from tests.server.client._async.conftest import Naps, read
from tests.server.fake_service import MOVED, OVERLOADED, STOPPING, FakeService, Mishap

from carousel.client import AnswerChanged, AsyncClient, AsyncSession, Piece, Retries, ServerError, ServerUnreachable
from carousel.errors import CarouselError, InvalidRequest, ModelFailed, PositionMismatch, SessionNotFound


def _ids(pieces: Iterable[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def _text(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("after", range(5))
async def test_a_broken_stream_goes_on_where_it_stopped(
    client: AsyncClient, service: FakeService, after: int, is_applied: bool
) -> None:
    """Wherever it breaks, before or after the turn was saved, the caller gets each token and the end once."""
    async with client.session() as session:
        service.mishaps = [Mishap(after, is_applied=is_applied), Mishap(max(0, after - 1)), Mishap(after)]
        pieces = await read(session.generate("a", max_tokens=4))
        assert _ids(pieces) == [98, 99, 100, 101]
        assert _text(pieces) == "bcde"
        assert [piece.finished is not None for piece in pieces] == [False] * 4 + [True]
        assert session.position == service.positions[session.session_id] == 5
    requests = service.requests
    assert len(requests) == 4
    assert all(request == requests[0] for request in requests)


async def test_each_branch_goes_on_where_it_stopped(client: AsyncClient, service: FakeService) -> None:
    """With n continuations interleaved in one stream, none loses or doubles a token, and each ends once, branch 0
    last."""
    async with client.session() as session:
        service.mishaps = [Mishap(2), Mishap(7), Mishap(8), Mishap(8)]
        pieces = await read(session.generate("a", max_tokens=2, n=3, seed=5))
    by_branch = {branch: [piece for piece in pieces if piece.branch == branch] for branch in range(3)}
    assert {branch: _text(parts) for branch, parts in by_branch.items()} == {0: "bc", 1: "cd", 2: "de"}
    assert [piece.branch for piece in pieces if piece.finished is not None] == [2, 1, 0]
    assert [piece.finished.seed for piece in pieces if piece.finished is not None] == [7, 6, 5]


async def test_a_stream_is_never_spliced(session: AsyncSession, service: FakeService) -> None:
    """Another caller moved the session before the retry ran: the client raises an error instead of joining two texts;
    it is unknown whether the turn was applied."""
    service.mishaps = [Mishap(2)]
    stream = session.generate("a", max_tokens=4)
    assert [(await anext(stream)).text, (await anext(stream)).text] == ["b", "c"]
    service.shift = 1
    with pytest.raises(AnswerChanged, match="got a different answer"):
        await anext(stream)
    assert session.position is None
    assert len(service.requests) == 2
    with pytest.raises(ServerError) as caught:
        await anext(stream)
    assert caught.value.code == "CANCELLED"
    assert (await session.get()).position == session.position


async def test_a_score_and_a_prediction_are_repeated_too(client: AsyncClient, service: FakeService) -> None:
    """Each scored token comes once; a prediction's stream is opened again."""
    async with client.session() as session:
        service.mishaps = [Mishap(1), Mishap(2, is_applied=True), None, Mishap(), Mishap(is_applied=True)]
        pieces = await read(session.score("abc"))
        assert [token.text for piece in pieces for token in piece.tokens] == ["a", "b", "c"]
        assert [piece.totals is not None for piece in pieces] == [False] * 3 + [True]
        async with session.predictor() as predict:
            assert (await predict("d", k=1)).position == 4
            service.mishaps = [Mishap(is_applied=True)]
            assert (await predict("e", k=1)).position == 5
        assert service.positions[session.session_id] == session.position == 5


@pytest.mark.parametrize("is_applied", [False, True])
async def test_every_kind_of_call_is_as_safe(
    client: AsyncClient, service: FakeService, naps: Naps, is_applied: bool
) -> None:
    """In sequence on one session: each call is retried as often as it fails, and the positions add up."""
    async with client.session() as session:
        service.mishaps = [Mishap(2, is_applied=is_applied), Mishap(1), Mishap(4), None]
        pieces = await read(session.generate("a", max_tokens=4))
        assert _ids(pieces) == [98, 99, 100, 101]
        assert sum(piece.finished is not None for piece in pieces) == 1
        service.mishaps = [Mishap(1, is_applied=is_applied), None, Mishap(is_applied=is_applied)]
        rated = await read(session.score("bc"))
        assert len([token for piece in rated for token in piece.tokens]) == 2
        assert (await session.predict("d", k=1)).position == 8
        service.mishaps = [Mishap(error=OVERLOADED)]
        assert await session.feed("e") == session.position == 9
        service.mishaps = [Mishap(is_applied=True)]
        await session.delete()
    assert len(naps.seconds) == 7


async def test_overload_and_a_lost_race_are_waited_out(client: AsyncClient, service: FakeService, naps: Naps) -> None:
    """The pause is at least what the server asks for, and grows from one failure to the next."""
    async with client.session() as session:
        service.mishaps = [Mishap(error=OVERLOADED), Mishap(error=MOVED), Mishap(error=STOPPING)]
        assert await session.feed("a") == 1
    assert 0.25 + 0.05 <= naps.seconds[0] <= 0.25 + 0.1
    assert 0.1 <= naps.seconds[1] <= 0.2
    assert 0.2 <= naps.seconds[2] <= 0.4


async def test_repeats_are_bounded(address: str, service: FakeService, naps: Naps) -> None:
    """After this many failures in a row the last one is raised; progress in between resets the count."""
    retries = Retries(max_attempts=3)
    async with AsyncClient(address, retries=retries, sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()] * 3
        with pytest.raises(ServerUnreachable):
            await session.feed("a")
        assert len(service.requests) == 3
        assert session.position == 0
        service.mishaps = [Mishap(1), Mishap(1), Mishap(2), Mishap(2), Mishap(3), Mishap(3)]
        assert _text(await read(session.generate("a", max_tokens=4))) == "bcde"


async def test_repeats_end_with_the_callers_time(address: str, service: FakeService, naps: Naps) -> None:
    """No pause goes beyond the timeout: the failure is raised at once instead."""
    retries = Retries(first_seconds=50.0, max_seconds=60.0)
    async with AsyncClient(address, retries=retries, sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()]
        with pytest.raises(ServerUnreachable):
            await session.feed("a", timeout_seconds=20)
    assert naps.seconds == []


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("n", "no"),
        SessionNotFound("gone"),
        ModelFailed("not a number"),
        PositionMismatch(3, 4),
    ],
)
async def test_what_cannot_help_is_not_repeated(
    client: AsyncClient, service: FakeService, naps: Naps, error: CarouselError
) -> None:
    """The first answer is final, and the session keeps its expectation."""
    async with client.session() as session:
        service.mishaps = [Mishap(1, error=error)]
        with pytest.raises(ServerError) as caught:
            await read(session.generate("a"))
        assert caught.value.reason == error.reason
        assert len(service.requests) == 1
        assert session.position == 0
    assert naps.seconds == []


async def test_a_failed_question_is_final_and_the_next_is_answered(
    address: str, service: FakeService, naps: Naps
) -> None:
    """Attempts are bounded, and final errors are not retried; the predictor opens another stream for the next
    request."""
    retries = Retries(max_attempts=2)
    async with AsyncClient(address, retries=retries, sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()] * 2
        with pytest.raises(ServerUnreachable):
            await session.feed("a")
        async with session.predictor() as predict:
            with pytest.raises(ServerError, match="top_p"):
                await predict("bad")
            assert (await predict("b")).position == 1
        assert session.position == 1
    assert len(naps.seconds) == 1


async def test_an_answered_question_starts_the_count_anew(session: AsyncSession, service: FakeService) -> None:
    """An open predictor survives any number of failures, as long as it gets answers in between."""
    async with session.predictor() as predict:
        for number in range(3):
            service.mishaps = [Mishap()] * 4
            assert (await predict("a", k=1)).position == number + 1
    assert len(service.requests) == 15
