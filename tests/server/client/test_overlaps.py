"""Turns that overlap on one session: each happens once, whatever the connection does."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.server.client.conftest import Either, done, read
from tests.server.fake_service import OVERLOADED, FakeService, Mishap

from carousel.client import AsyncClient, Client, Prediction, ServerError

NUM = 8  # one runs, seven wait
LOST = Mishap(is_applied=True)


def _check(answers: Sequence[Prediction | BaseException], retained: int, service: FakeService) -> None:
    """Each call has its own answer, or is told that it is gone; nothing was applied twice."""
    assert service.positions == {"mine": NUM}
    assert len({request.request_id for request in service.requests}) == NUM
    told = [answer.position for answer in answers if isinstance(answer, Prediction)]
    gone = [answer.reason for answer in answers if isinstance(answer, ServerError)]
    assert sorted(told) == list(range(NUM - retained + 1, NUM + 1))
    assert gone == ["ANSWER_GONE"] * (NUM - retained)


@pytest.mark.parametrize("retained", [4, NUM])
async def test_overlapping_predictions_happen_once(fake: tuple[str, FakeService], retained: int) -> None:
    """The connection breaks when all are applied, and all are asked for again."""
    address, service = fake
    barrier = asyncio.Barrier(NUM)

    async def until_all_are_lost(seconds: float) -> None:
        await barrier.wait()

    async with AsyncClient(address, sleep=until_all_are_lost) as client, client.session("mine", keep=True) as session:
        service.retained_answers, service.mishaps = retained, [LOST] * NUM
        asked = [session.predict("x", k=1) for _ in range(NUM)]
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*asked, return_exceptions=True)
        _check(answers, retained, service)
        assert session.position is None
        assert (await session.get()).position == session.position == NUM


@pytest.mark.parametrize("retained", [4, NUM])
def test_overlapping_predictions_of_threads_happen_once(fake: tuple[str, FakeService], retained: int) -> None:
    """The same for threads that share a session."""
    address, service = fake
    barrier = threading.Barrier(NUM, timeout=20)

    def until_all_are_lost(seconds: float) -> None:
        barrier.wait()

    with (
        Client(address, sleep=until_all_are_lost) as client,
        client.session("mine", keep=True) as session,
        ThreadPoolExecutor(NUM) as pool,
    ):
        service.retained_answers, service.mishaps = retained, [LOST] * NUM
        asked = [pool.submit(session.predict, "x", k=1) for _ in range(NUM)]
        _check([one.exception() or one.result() for one in asked], retained, service)
        assert session.position is None
        assert session.get().position == session.position == NUM


@pytest.mark.parametrize("turn", ["feed", "predict", "score"])
async def test_a_turn_that_was_overtaken_goes_on_after_the_other(
    either: Either, service: FakeService, turn: str
) -> None:
    """It was refused for load and another turn of this session came first: no expectation was meant by that order."""
    session = await either.start()
    turns = {"feed": session.feed, "predict": session.predict, "score": lambda text: read(session.score(text))}
    service.mishaps = [Mishap(error=OVERLOADED)]
    either.meanwhile = [lambda: session.feed("b")]
    await done(turns[turn]("a"))
    assert service.positions == {"mine": 2}
    expected = [request.HasField("expected_position") for request in service.requests]
    assert expected == [True, False, True, False]
    assert len({request.request_id for request in service.requests}) == 2
    assert session.position is None


@pytest.mark.parametrize("turn", ["feed", "predict"])
async def test_an_overtaken_turn_in_doubt_is_not_asked_for_again(
    either: Either, service: FakeService, turn: str
) -> None:
    """Its answer was lost and nothing remembers it: it may have been applied, so that the refusal counts."""
    session = await either.start()
    service.mishaps = [LOST]

    async def overtake() -> None:
        await done(session.feed("b"))
        service.forget_answers(with_ids=True)

    def overtake_now() -> None:
        session.feed("b")
        service.forget_answers(with_ids=True)

    either.meanwhile = [overtake if isinstance(either.client, AsyncClient) else overtake_now]
    with pytest.raises(ServerError) as caught:
        await done(getattr(session, turn)("a"))
    assert (caught.value.reason, caught.value.position) == ("POSITION_MISMATCH", 2)


async def test_the_callers_own_expectation_stays(either: Either, service: FakeService) -> None:
    """Whoever says where the session must stand is told when it does not."""
    session = await either.start()
    service.mishaps = [Mishap(error=OVERLOADED)]
    either.meanwhile = [lambda: session.feed("b")]
    with pytest.raises(ServerError) as caught:
        await done(session.feed("a", expected_position=0))
    assert caught.value.reason == "POSITION_MISMATCH"
