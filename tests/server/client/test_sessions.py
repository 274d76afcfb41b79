"""Turns of a session: numbered, expected, repeated, applied once."""

import asyncio
import uuid
from collections.abc import Iterable

import pytest
from tests.server.client.conftest import Naps
from tests.server.fake_service import HANG, MOVED, OVERLOADED, STOPPING, WAIT, FakeService, Mishap

from carousel.client import (
    AsyncClient,
    Client,
    Piece,
    Retries,
    ServerError,
    ServerUnreachable,
)
from carousel.errors import (
    AnswerGone,
    CarouselError,
    InvalidRequest,
    ModelFailed,
    PositionMismatch,
    SessionNotFound,
)


def _ids(pieces: Iterable[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def _text(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_session_numbers_its_turns(client: Client, service: FakeService) -> None:
    """Each turn has an id of its own and expects the position of the last answer; a generation has a seed."""
    with client.session() as session:
        session.feed("ab")
        list(session.generate("c", max_tokens=2))
        list(session.score("d"))
        session.predict("e")
        assert session.position == 7
    requests = service.requests
    assert [request.expected_position for request in requests] == [0, 2, 5, 6]
    assert all(request.HasField("expected_position") for request in requests)
    assert len({uuid.UUID(request.request_id) for request in requests}) == 4
    assert requests[1].sampling.HasField("seed")


def test_what_the_caller_sets_stays(client: Client, service: FakeService) -> None:
    """An id that outlives the process, an own expectation, an own seed."""
    with client.session() as session:
        list(session.generate("a", request_id="mine", expected_position=0, seed=3))
    assert service.requests[0].request_id == "mine"
    assert service.requests[0].sampling.seed == 3


def test_a_session_found_again_expects_nothing_at_first(client: Client, service: FakeService) -> None:
    """Its first answer tells where it stands, and so does `get`."""
    client.create_session("old")
    found, other = client.open_session("old"), client.open_session("old")
    assert found.position is None
    found.feed("abc")
    assert not service.requests[0].HasField("expected_position")
    assert found.position == other.get().position == other.position == 3


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("after", range(5))
def test_a_broken_stream_goes_on_where_it_stopped(
    patient: Client, service: FakeService, after: int, is_applied: bool
) -> None:
    """Wherever it breaks, before or after the turn was saved, the caller gets each token and the end once."""
    with patient.session() as session:
        service.mishaps = [Mishap(after, is_applied=is_applied), Mishap(max(0, after - 1)), Mishap(after)]
        pieces = list(session.generate("a", max_tokens=4))
        assert _ids(pieces) == [98, 99, 100, 101]
        assert _text(pieces) == "bcde"
        assert [piece.finished is not None for piece in pieces] == [False] * 4 + [True]
        assert session.position == service.positions[session.session_id] == 5
    requests = service.requests
    assert len(requests) == 4
    assert all(request == requests[0] for request in requests)


def test_each_branch_goes_on_where_it_stopped(patient: Client, service: FakeService) -> None:
    """With n continuations mixed in one stream, none loses or doubles a token, and each ends once, branch 0 last."""
    with patient.session() as session:
        service.mishaps = [Mishap(2), Mishap(7), Mishap(8), Mishap(8)]
        pieces = list(session.generate("a", max_tokens=2, n=3, seed=5))
    by_branch = {branch: [piece for piece in pieces if piece.branch == branch] for branch in range(3)}
    assert {branch: _text(parts) for branch, parts in by_branch.items()} == {0: "bc", 1: "cd", 2: "de"}
    assert [piece.branch for piece in pieces if piece.finished is not None] == [2, 1, 0]
    assert [piece.finished.seed for piece in pieces if piece.finished is not None] == [7, 6, 5]


def test_a_score_and_a_prediction_are_repeated_too(patient: Client, service: FakeService) -> None:
    """Each rated token comes once; a prediction's stream is opened anew."""
    with patient.session() as session:
        service.mishaps = [Mishap(1), Mishap(2, is_applied=True), None, Mishap(), Mishap(is_applied=True)]
        pieces = list(session.score("abc"))
        assert [token.text for piece in pieces for token in piece.tokens] == ["a", "b", "c"]
        assert [piece.totals is not None for piece in pieces] == [False] * 3 + [True]
        with session.predictor() as predict:
            assert predict("d", k=1).position == 4
            service.mishaps = [Mishap(is_applied=True)]
            assert predict("e", k=1).position == 5
        assert service.positions[session.session_id] == session.position == 5


def test_overload_and_a_lost_race_are_waited_out(patient: Client, service: FakeService, naps: Naps) -> None:
    """At least as long as the server asks for, and longer from one failure to the next."""
    with patient.session() as session:
        service.mishaps = [Mishap(error=OVERLOADED), Mishap(error=MOVED), Mishap(error=STOPPING)]
        assert session.feed("a") == 1
    assert 0.25 + 0.05 <= naps.seconds[0] <= 0.25 + 0.1
    assert 0.1 <= naps.seconds[1] <= 0.2
    assert 0.2 <= naps.seconds[2] <= 0.4


def test_repeats_are_bounded(fake: tuple[str, FakeService], naps: Naps) -> None:
    """After so many failures in a row the last one is raised; what gets through in between starts the count anew."""
    address, service = fake
    with Client(address, retries=Retries(max_attempts=3), sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()] * 3
        with pytest.raises(ServerUnreachable):
            session.feed("a")
        assert len(service.requests) == 3
        assert session.position == 0
        service.mishaps = [Mishap(1), Mishap(1), Mishap(2), Mishap(2), Mishap(3), Mishap(3)]
        assert _text(session.generate("a", max_tokens=4)) == "bcde"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("n", "no"),
        SessionNotFound("gone"),
        ModelFailed("not a number"),
        PositionMismatch(3, 4),
    ],
)
def test_what_cannot_help_is_not_repeated(
    patient: Client, service: FakeService, naps: Naps, error: CarouselError
) -> None:
    """The first answer is the last, and the session still expects to be where it was."""
    with patient.session() as session:
        service.mishaps = [Mishap(1, error=error)]
        with pytest.raises(ServerError) as caught:
            list(session.generate("a"))
        assert caught.value.reason == error.reason
        assert len(service.requests) == 1
        assert session.position == 0
    assert naps.seconds == []


def test_a_lost_record_is_told_with_the_position(patient: Client, service: FakeService) -> None:
    """The turn was applied and nothing remembers it: an error with the position, from which `get` goes on."""
    with patient.session() as session:
        service.mishaps = [Mishap(1, is_applied=True)]
        stream = session.generate("a", max_tokens=2)
        assert next(stream).text == "b"
        service.forget_answers(with_ids=True)
        with pytest.raises(ServerError) as caught:
            list(stream)
        assert (caught.value.code, caught.value.reason, caught.value.position) == ("ABORTED", "POSITION_MISMATCH", 3)
        with pytest.raises(ServerError, match="at position 3, not 0"):
            session.feed("b")
        assert session.get().position == 3
        assert session.feed("b") == 4


def test_an_answer_that_is_gone_leaves_the_position_known(patient: Client, service: FakeService, naps: Naps) -> None:
    """ANSWER_GONE is final and says that the turn was applied: the next one expects the session where it is now."""
    with patient.session() as session:
        service.mishaps = [Mishap(1, is_applied=True)]
        stream = session.generate("a", max_tokens=2)
        assert next(stream).text == "b"
        service.forget_answers()
        with pytest.raises(ServerError) as caught:
            next(stream)
        assert (caught.value.reason, caught.value.position) == ("ANSWER_GONE", 3)
        assert session.position == 3
        assert len(naps.seconds) == 1
        assert session.feed("b") == 4
        assert service.requests[-1].expected_position == 3


def test_an_answer_that_is_gone_may_leave_the_position_unknown(patient: Client, service: FakeService) -> None:
    """A server that does not say where the session stands: no expectation, rather than the old one."""
    with patient.session() as session:
        service.mishaps = [Mishap(error=AnswerGone("no longer kept"))]
        with pytest.raises(ServerError, match="no longer kept"):
            session.feed("a")
        assert session.position is None


def test_a_stream_that_is_given_up_leaves_no_expectation(client: Client, service: FakeService) -> None:
    """It may have been applied or not: the next turn goes on from either."""
    with client.session() as session:
        session.feed("a")
        stream = session.generate(HANG)
        next(stream)
        stream.close()
        assert session.position is None
        assert service.is_cancelled.wait(10)
        session.feed("b")
        assert not service.requests[-1].HasField("expected_position")
        assert session.position == 2


def test_turns_at_once_expect_nothing(client: Client, service: FakeService) -> None:
    """Which one comes first is for the server to say; afterwards `get` knows."""
    with client.session() as session:
        first = session.generate("a", max_tokens=1)
        list(session.generate("b", max_tokens=1))
        list(first)
        assert [request.HasField("expected_position") for request in service.requests].count(True) <= 1
        assert session.position is None
        assert session.get().position == session.position == 4


def test_repeats_end_with_the_callers_time(fake: tuple[str, FakeService], naps: Naps) -> None:
    """No pause goes beyond the timeout: the failure is raised at once instead."""
    address, service = fake
    retries = Retries(first_seconds=50.0, max_seconds=60.0)
    with Client(address, retries=retries, sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()]
        with pytest.raises(ServerUnreachable):
            session.feed("a", timeout_seconds=20)
    assert naps.seconds == []


async def test_a_cancelled_question_leaves_no_expectation(fake: tuple[str, FakeService]) -> None:
    """Whether it was applied is unknown; the next one is put on a new stream."""
    address, service = fake
    async with AsyncClient(address) as client, client.session() as session, session.predictor() as predict:
        await predict("a", k=1)
        asking = asyncio.ensure_future(predict(WAIT))
        await asyncio.to_thread(service.is_waiting.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert session.position is None
        service.is_cancelled.set()
        assert (await predict("b", k=1)).position in (2, 6)


@pytest.mark.parametrize("is_applied", [False, True])
async def test_an_async_session_is_as_safe(fake: tuple[str, FakeService], naps: Naps, is_applied: bool) -> None:
    """Streams go on, scores and predictions are repeated, and the count is the blocking session's."""
    address, service = fake
    async with AsyncClient(address, sleep=naps.later) as client, client.session() as session:
        service.mishaps = [Mishap(2, is_applied=is_applied), Mishap(1), Mishap(4), None]
        pieces = [piece async for piece in session.generate("a", max_tokens=4)]
        assert _ids(pieces) == [98, 99, 100, 101]
        assert sum(piece.finished is not None for piece in pieces) == 1
        service.mishaps = [Mishap(1, is_applied=is_applied), None, Mishap(is_applied=is_applied)]
        assert len([token async for piece in session.score("bc") for token in piece.tokens]) == 2
        assert (await session.predict("d", k=1)).position == 8
        service.mishaps = [Mishap(error=OVERLOADED)]
        assert await session.feed("e") == session.position == 9
        service.mishaps = [Mishap(is_applied=True)]
        await session.delete()
    assert len(naps.seconds) == 7


async def test_an_async_session_gives_up_like_the_blocking_one(fake: tuple[str, FakeService], naps: Naps) -> None:
    """Bounded attempts, no repeat of what cannot help, and no expectation after a cancelled reader."""
    address, service = fake
    retries = Retries(max_attempts=2)
    async with AsyncClient(address, retries=retries, sleep=naps.later) as client, client.session() as session:
        service.mishaps = [Mishap()] * 2
        with pytest.raises(ServerUnreachable):
            await session.feed("a")
        async with session.predictor() as predict:
            with pytest.raises(ServerError, match="top_p"):
                await predict("bad")
            assert (await predict("b")).position == 1
        assert session.position == 1
        stream = session.generate(HANG)
        await anext(stream)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert session.position is None
    assert len(naps.seconds) == 1
