"""The asyncio client: the same calls with the same answers and ends."""

import asyncio

import pytest
from tests.server.fake_service import HANG, WAIT, FakeService

from carousel.client import (
    AsyncClient,
    Client,
    ServerError,
    ServerUnreachable,
)


async def test_async_calls_mean_the_same(fake: tuple[str, FakeService]) -> None:
    """Every call of the asyncio client answers what the blocking one answers."""
    with Client(fake[0]) as client:
        async with AsyncClient(fake[0], timeout_seconds=20) as other:
            assert [piece async for piece in other.generate("a", seed=1)] == list(client.generate("a", seed=1))
            assert [piece async for piece in other.score("ab", top_g=3)] == list(client.score("ab", top_g=3))
            assert await other.predict("ab", k=3, word_prefix="") == client.predict("ab", k=3, word_prefix="")
            assert await other.tokenize("né") == client.tokenize("né")
            assert await other.detokenize([104, 105]) == client.detokenize([104, 105])
            assert await other.models() == client.models()
            assert await other.model() == client.model()
            assert await other.is_serving() is client.is_serving() is True
            for name in "abc":
                await other.create_session(name)
            assert [one async for one in other.list_sessions()] == list(client.list_sessions())
            assert await other.get_session("a") == client.get_session("a")


async def test_an_async_session_lives_as_long_as_its_block(fake: tuple[str, FakeService]) -> None:
    """The same life as the blocking one's."""
    address, service = fake
    async with AsyncClient(address) as client:
        async with client.session("mine") as session:
            assert await session.feed("abc") == 3
            assert [piece.text async for piece in session.generate("d", max_tokens=2)] == ["e", "f", ""]
            await session.predict("ef", k=1)
            assert [piece async for piece in session.score("g")]
            async with session.predictor() as predict:
                await predict("h")
            assert (await session.get()).position == 10
        assert service.positions == {}
        with pytest.raises(ServerError, match="deleted"):
            await session.delete()


async def test_async_errors_are_the_same_errors(fake: tuple[str, FakeService]) -> None:
    """Unary, streamed and predicted failures are all read in full; a predictor stays failed."""
    async with AsyncClient(fake[0]) as client:
        with pytest.raises(ServerError) as caught:
            await client.get_session("nobody")
        assert caught.value.reason == "SESSION_NOT_FOUND"
        with pytest.raises(ServerError) as caught:
            [piece async for piece in client.generate("overload")]
        assert caught.value.retry_after_seconds == 0.25
        async with client.predictor() as predict:
            for prompt in ("bad", "good"):
                with pytest.raises(ServerError) as caught:
                    await predict(prompt)
                assert caught.value.violations[0].field == "sampling.top_p"
        async with client.predictor() as predict:
            await predict("end")
            with pytest.raises(ServerError, match="ended the stream"):
                await predict("more")
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(ServerUnreachable, match="127.0.0.1:1"):
            await client.models()
        with pytest.raises(ServerUnreachable, match="127.0.0.1:1"):
            await client.predict("a")


@pytest.mark.parametrize("end", ["close", "drop", "cancel"])
async def test_leaving_an_async_stream_cancels_the_call(fake: tuple[str, FakeService], end: str) -> None:
    """Closed, dropped, or its reader cancelled: the server stops working on it."""
    address, service = fake
    async with AsyncClient(address) as client:
        stream = client.generate(HANG)
        assert (await anext(stream)).text == "h"
        if end == "close":
            await stream.close()
        if end == "cancel":
            reader = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        del stream
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)


async def test_closing_the_async_client_ends_what_is_open(fake: tuple[str, FakeService]) -> None:
    """As a failed call; the task that reads is not itself cancelled."""
    async with AsyncClient(fake[0]) as client:
        stream = client.generate(HANG)
        await anext(stream)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
    with pytest.raises(ServerError) as caught:
        await reader
    assert caught.value.code == "CANCELLED"


async def test_a_cancelled_prediction_ends_its_stream(fake: tuple[str, FakeService]) -> None:
    """The task that asks is cancelled, and so is the call."""
    address, service = fake
    async with AsyncClient(address) as client:
        async with client.predictor() as predict:
            await predict(HANG)
            asking = asyncio.ensure_future(predict(WAIT))
            await asyncio.to_thread(service.is_waiting.wait, 10)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)


async def test_watching_a_server_that_is_not_there_fails() -> None:
    """When it is read, as any stream."""
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnreachable):
        next(client.watch())
    async with AsyncClient("127.0.0.1:1") as other:
        events = await other.watch()
        with pytest.raises(ServerUnreachable):
            await anext(events)
