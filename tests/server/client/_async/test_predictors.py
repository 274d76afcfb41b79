"""Questions and answers on one stream that stays open, and its end."""

from typing import Any

import pytest
from tests.server.client.running.aio import happens
from tests.server.fake_service import FakeService

from carousel.client import AsyncClient, AsyncSession, ServerError


async def test_the_predictor_asks_over_one_stream(client: AsyncClient, service: FakeService) -> None:
    """Each call feeds its text to the same sequence; a prefix asks for words and is not fed."""
    async with client.predictor() as predict:
        first = await predict("abc", k=2)
        second = await predict(k=1, word_prefix=" ca", num_words=2)
    assert (first.position, second.position) == (3, 3)
    assert [candidate.probability for candidate in first.candidates] == pytest.approx([1, 0.36788], abs=1e-4)
    assert first.words == ()
    assert [word.text for word in second.words] == [" caa", " cab"]
    assert len(service.metadata) == 2


async def test_a_predictor_stream_that_ends_early_is_an_error(client: AsyncClient) -> None:
    """The server's end of the stream is not an answer."""
    async with client.predictor() as predict:
        await predict("end")
        with pytest.raises(ServerError, match="ended the stream"):
            await predict("more")


async def test_a_refused_value_names_its_field(client: AsyncClient) -> None:
    """Field violations are decoded, from a prediction stream too."""
    with pytest.raises(ServerError) as caught:
        async with client.predictor() as predict:
            await predict("bad")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in caught.value.violations] == ["sampling.top_p"]
    assert caught.value.retry_after_seconds is None


@pytest.mark.parametrize("has_session", [False, True])
async def test_a_stream_of_questions_ends_in_order(
    client: AsyncClient, session: AsyncSession, service: FakeService, has_session: bool
) -> None:
    """When the last question is answered, the server hears the end, and is not cancelled."""
    asker: Any = session.predictor() if has_session else client.predictor()
    async with asker as predict:
        await predict("a")
    assert await happens(service.is_ended)
