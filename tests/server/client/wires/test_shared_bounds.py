"""Frames of a shared stream stay within the server's limit, and a frame that is too large loses no turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.server.fake_service import FakeService, serve_fake

from carousel.client import AsyncClient, ServerError
from carousel.client.wires.shared_places import MAX_FRAME_BYTES

MAX_BYTES = 2_000  # bytes that the server reads
NUM = 100
TEXT = "a" * 50


@pytest.fixture
def fake() -> Iterator[tuple[str, FakeService]]:
    with serve_fake(MAX_BYTES) as (address, service, _):
        yield address, service


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, sleep=_at_once, timeout_seconds=20) as client:
        yield client


async def _at_once(seconds: float) -> None:
    """Pauses for no time."""


def _num_calls(service: FakeService, method: str) -> int:
    return sum(one.method == method for one in service.seen)


async def test_questions_of_a_frame_that_was_too_large_are_put_in_smaller_ones(
    client: AsyncClient, service: FakeService
) -> None:
    """The server reports its limit; after that, no stream breaks."""
    async with contextlib.AsyncExitStack() as stack:
        predictors = [await stack.enter_async_context(client.predictor()) for _ in range(NUM)]
        for position in (50, 100, 150):
            answers = await asyncio.gather(*(predict(TEXT) for predict in predictors))
            assert [answer.position for answer in answers] == [position] * NUM
    assert 1 <= _num_calls(service, "GetModel") <= 2
    assert _num_calls(service, "PredictMany") <= 4
    assert _num_calls(service, "Predict") == 0


async def test_turns_of_sessions_happen_once(client: AsyncClient, service: FakeService) -> None:
    """This holds even when the stream breaks between them, because turns have ids."""
    async with contextlib.AsyncExitStack() as stack:
        sessions = [client.open_session((await client.create_session()).session_id) for _ in range(NUM)]
        predictors = [await stack.enter_async_context(session.predictor()) for session in sessions]
        for predict in predictors:
            await predict("b")
        answers = await asyncio.gather(*(predict(TEXT) for predict in predictors))
        assert [answer.position for answer in answers] == [51] * NUM
    assert set(service.positions.values()) == {51}
    assert {len(session.applied) for session in service.kept.values()} == {2}


async def test_what_cannot_be_told_apart_is_not_asked_twice(client: AsyncClient, service: FakeService) -> None:
    """A request on a session without an id may have been applied: its caller gets the error that the stream broke."""
    async with contextlib.AsyncExitStack() as stack:
        ids = [(await client.create_session()).session_id for _ in range(NUM)]
        asked = [await stack.enter_async_context(client.predictor(session_id=one)) for one in ids]
        outcomes = await asyncio.gather(*(predict(TEXT) for predict in asked), return_exceptions=True)
    codes = {outcome.code for outcome in outcomes if isinstance(outcome, ServerError)}
    assert codes == {"UNAVAILABLE"}
    assert set(service.positions.values()) <= {0, 50}


async def test_a_server_that_does_not_say_what_it_reads_is_not_asked_for_ever(
    client: AsyncClient, service: FakeService
) -> None:
    """A request that is too large stays so: its callers get the error."""
    service.knows_itself = False
    async with contextlib.AsyncExitStack() as stack:
        predictors = [await stack.enter_async_context(client.predictor()) for _ in range(NUM)]
        outcomes: list[Any] = await asyncio.gather(*(predict(TEXT) for predict in predictors), return_exceptions=True)
    assert {outcome.code for outcome in outcomes} <= {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert _num_calls(service, "PredictMany") <= 6
    assert _num_calls(service, "GetModel") <= 6


async def test_a_question_that_the_server_does_not_read_is_refused_alone(
    client: AsyncClient, service: FakeService
) -> None:
    """A first request fails on its own stream; the others are retried and answered."""
    async with client.predictor() as large, client.predictor() as small, client.predictor() as other:
        asked = [large("a" * 3_000), small("a"), other("a")]
        refused, *answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(refused, ServerError)
        assert refused.code == "RESOURCE_EXHAUSTED"
        assert [answer.position for answer in answers if not isinstance(answer, BaseException)] == [1, 1]


async def test_a_question_that_has_to_stay_is_weighed_before(client: AsyncClient, service: FakeService) -> None:
    """The stream carries its sequence and other sequences, which are not affected; the client asks the server once for
    its limit."""
    async with client.predictor() as large, client.predictor() as also_large, client.predictor() as other:
        for predict in (large, also_large, other):
            await predict("a")
        for predict in (large, also_large):
            with pytest.raises(ServerError, match="the server reads at most 2000") as caught:
                await predict("a" * (MAX_FRAME_BYTES + 1))
            assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert (await other("a")).position == 2
    assert (_num_calls(service, "PredictMany"), _num_calls(service, "GetModel")) == (1, 1)


async def test_a_question_just_small_enough_shares(client: AsyncClient, service: FakeService) -> None:
    """Once the limit is known, a request that fits into a frame shares one, and a larger one has its own stream."""
    async with contextlib.AsyncExitStack() as stack:
        predictors = [await stack.enter_async_context(client.predictor()) for _ in range(NUM)]
        await asyncio.gather(*(predict(TEXT) for predict in predictors))
    assert (await client.predict("a" * 1_900)).position == 1_900
    assert _num_calls(service, "Predict") == 0
    assert (await client.predict("a" * 1_980)).position == 1_980
    assert _num_calls(service, "Predict") == 1


@pytest.mark.parametrize("ending", ["late", "cancelled", "closed"])
async def test_nobody_waits_longer_than_he_wants_for_the_bounds(
    address: str, service: FakeService, ending: str
) -> None:
    """While GetModel has no answer, a request's timeout runs, it can be cancelled, and the client can be closed."""
    service.may_answer.clear()
    client = AsyncClient(address, sleep=_at_once, timeout_seconds=1.5 if ending == "late" else None)
    predictors = [client.predictor() for _ in range(NUM)]
    asked = [asyncio.ensure_future(predict(TEXT)) for predict in predictors]
    assert await asyncio.to_thread(service.is_holding.wait, 10)
    if ending == "cancelled":
        asked[0].cancel()
        await asyncio.wait(asked[:1], timeout=5)
        assert asked[0].cancelled()
        service.may_answer.set()
        assert (await asked[1]).position == 50
    if ending == "closed":
        await client.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    if ending != "cancelled":
        assert {type(outcome) for outcome in outcomes} == {ServerError}
    service.may_answer.set()
    await client.close()


async def test_the_common_case_asks_for_no_bounds(service: FakeService, address: str) -> None:
    """Frames are small enough from the start."""
    service.max_message_bytes = 0
    async with AsyncClient(address) as client:
        assert (await client.predict("a")).position == 1
    assert _num_calls(service, "GetModel") == 0
