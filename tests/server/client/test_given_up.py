"""Turns that their caller gives up, and streams that fail: nothing stays open behind them."""

import asyncio
from typing import Any

import pytest
from tests.server.client.conftest import Either, done, leave
from tests.server.fake_service import HANG, WAIT, FakeService, Mishap

from carousel.client import AsyncClient, Client, ServerError, Stream


async def test_a_closed_stream_is_given_up(either: Either, service: FakeService) -> None:
    """Its turn no longer counts as running, though the stream is still held: the next answer is believed."""
    session = await either.start()
    stream = session.generate(HANG)
    await done(anext(stream) if hasattr(stream, "__anext__") else next(stream))
    await done(stream.close())
    assert session.position is None
    assert (await done(session.get())).position == session.position == 0
    assert service.is_cancelled.wait(10)
    assert await done(session.feed("a")) == 1
    assert service.requests[-1].HasField("expected_position")


async def test_a_reader_that_is_cancelled_gives_its_turn_up(fake: tuple[str, FakeService]) -> None:
    """While it waits for an answer."""
    async with AsyncClient(fake[0]) as client, client.session() as session:
        stream = session.generate(HANG)
        await anext(stream)
        await _cancel(anext(stream))
        assert (await session.get()).position == session.position == 0
        fake[1].is_cancelled.set()
        del stream


async def test_a_reader_that_is_cancelled_before_a_repeat_gives_its_turn_up(fake: tuple[str, FakeService]) -> None:
    """While it waits to ask again."""
    is_resting = asyncio.Event()

    async def rest(seconds: float) -> None:
        is_resting.set()
        await asyncio.Event().wait()

    async with AsyncClient(fake[0], sleep=rest) as client, client.session() as session:
        fake[1].mishaps = [Mishap()]
        stream = session.generate("a")
        await _cancel(anext(stream), is_resting)
        assert (await session.get()).position == session.position == 0
        del stream


async def test_a_cancelled_question_is_not_left_on_its_stream(fake: tuple[str, FakeService]) -> None:
    """The server no longer works on it; the turn no longer counts."""
    address, service = fake
    async with AsyncClient(address) as client, client.session() as session, session.predictor() as predict:
        await predict("a", k=1)
        asking = asyncio.ensure_future(predict(WAIT))
        await asyncio.to_thread(service.is_waiting.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await session.get()).position == session.position == 1
        service.is_cancelled.set()


async def _cancel(reading: Any, when: asyncio.Event | None = None) -> None:
    reader = asyncio.ensure_future(reading)
    if when is None:
        await asyncio.sleep(0)
    else:
        await when.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


@pytest.mark.parametrize("turn", ["generate", "predict"])
def test_an_interrupted_turn_is_given_up(fake: tuple[str, FakeService], turn: str) -> None:
    """By the user's Ctrl-C, here in the pause before a repeat: it no longer counts, though its error still holds it."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with Client(fake[0], sleep=interrupt) as client, client.session() as session:
        asks = {"generate": lambda: session.generate("a"), "predict": lambda: session.predictor()}
        fake[1].mishaps = [Mishap()]
        stream = asks[turn]()
        with pytest.raises(KeyboardInterrupt) as caught:
            next(stream) if isinstance(stream, Stream) else stream("a")
        assert session.position is None
        assert session.get().position == session.position == 0
        assert caught.tb is not None


def test_an_interrupted_rewind_is_given_up(fake: tuple[str, FakeService]) -> None:
    """The same, though it is no turn: whether it was done is unknown."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with Client(fake[0], sleep=interrupt) as client, client.session() as session:
        fake[1].mishaps = [Mishap()]
        with pytest.raises(KeyboardInterrupt) as caught:
            session.rewind(position=0)
        assert session.position is None
        assert session.get().position == session.position == 0
        assert caught.tb is not None


async def test_a_turn_that_cannot_be_said_leaves_the_position(either: Either) -> None:
    """A value that the wire has no word for: nothing was sent."""
    session = await either.start()
    await done(session.feed("a"))
    with pytest.raises(ValueError, match="content"):
        session.generate("a", content="words")
    with pytest.raises(TypeError):
        session.score(3)
    assert session.position == 1


async def test_a_closed_client_fails_what_is_still_asked(fake: tuple[str, FakeService]) -> None:
    """A plain call as well as a stream, as failed; the task that waits is not itself cancelled."""
    address, service = fake
    client = AsyncClient(address)
    asking = asyncio.ensure_future(client.predict(WAIT))
    await asyncio.to_thread(service.is_waiting.wait, 10)
    service.may_answer.clear()
    telling = asyncio.ensure_future(client.model())
    await asyncio.to_thread(service.is_holding.wait, 10)
    await client.close()
    service.may_answer.set()
    for waiting in (asking, telling):
        with pytest.raises(ServerError) as caught:
            await waiting
        assert caught.value.code == "CANCELLED"


@pytest.mark.parametrize("has_session", [False, True])
async def test_a_stream_of_questions_ends_in_order(either: Either, service: FakeService, has_session: bool) -> None:
    """When the last question is answered, the server has heard the end, and is not cancelled."""
    predict = (await either.start()).predictor() if has_session else either.client.predictor()
    await done(predict("a"))
    await leave(predict)
    assert service.num_orderly_ends == 1


async def test_no_reader_is_left_behind(fake: tuple[str, FakeService]) -> None:
    """However a stream of questions ends, the task that reads it has ended too."""
    async with AsyncClient(fake[0]) as client, client.session() as session:
        for start in (client.predictor, session.predictor):
            with pytest.raises(KeyError):
                await _ask_and_raise(start())
            names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
            assert "_read" not in names


async def _ask_and_raise(asker: Any) -> None:
    async with asker as predict:
        await predict("a")
        raise KeyError
