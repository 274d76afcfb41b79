"""The messages of one tag are answered in their order, whichever way each of them goes."""

import asyncio
from typing import Any, cast

from tests.bounds import make_limits

from carousel.rpc.predict_messages import PredictMessages
from carousel.sessions.resident import Named
from carousel.sessions.sequence import Question, Sequence
from carousel.v1 import language_model_pb2 as wire

READER = PredictMessages(make_limits(max_input_tokens=9, max_generated_tokens=9))


class Talk:
    """Begins plain messages when it is told to; the ordinary way, the position is the token."""

    is_holding = False

    def __init__(self) -> None:
        self.is_open = False
        self.begun: list[int] = []

    def begin_plain(self, plain: Any, sink: Any) -> bool:
        if self.is_open:
            self.begun.append(plain.token_id)
        return self.is_open

    def search_cost(self, num_words: int) -> float:
        return 0.0

    async def ask(self, message: wire.PredictRequest, reader: Any) -> Named:
        return Named((), (), message.input.tokens.ids[0], 0)

    async def close(self) -> None: ...


class Stream:
    def __init__(self) -> None:
        self.answered: list[int] = []
        self.refused: list[str] = []
        self.cannot_write: set[int] = set()
        self.dropped: list[int] = []

    async def enter(self, cost: float) -> None: ...

    async def until_read(self) -> None: ...

    def answer(self, tag: int, question: Question, outcome: Any) -> None:
        assert outcome.position == question.request.input.tokens.ids[0]
        if outcome.position in self.cannot_write:
            raise ValueError(f"{outcome.position} cannot be written")
        self.answered.append(outcome.position)

    def refuse(self, tag: int, question: Question, error: Exception) -> None:
        if not self.cannot_write:
            raise error
        self.refused.append(str(error))

    def drop(self, question: Question) -> None:
        self.dropped.append(question.request.input.tokens.ids[0])


def question(token: int) -> Question:
    request = wire.PredictRequest()
    request.input.tokens.ids.append(token)
    return Question(request, 10, 10)


async def answered(stream: Stream, count: int) -> list[int]:
    async with asyncio.timeout(5):
        while len(stream.answered) < count:
            await asyncio.sleep(0)
    return stream.answered


async def begun() -> tuple[Stream, Talk, Sequence]:
    """It has answered its first question; what it is asked now goes the shortest way."""
    stream, talk = Stream(), Talk()
    sequence = Sequence(stream, 1, talk, READER)  # type: ignore[arg-type]
    sequence.ask(question(1))
    await answered(stream, 1)
    while sequence._task is not None:
        await asyncio.sleep(0)
    talk.is_open = True
    return stream, talk, sequence


async def test_a_question_that_was_given_back_is_answered_before_those_behind_it() -> None:
    """It had begun the shortest way, did not happen, and goes the ordinary one."""
    stream, talk, sequence = await begun()
    for token in (2, 3, 4):
        sequence.ask(question(token))
    assert talk.begun == [2]
    sequence.put(None)
    assert await answered(stream, 4) == [1, 2, 3, 4]
    await sequence.close()


async def test_what_is_answered_after_the_end_is_dropped() -> None:
    """And what waits behind it."""
    stream, talk, sequence = await begun()
    for token in (2, 3):
        sequence.ask(question(token))
    await sequence.close()
    sequence.put(Named([1], [-1.0], 2, 2))
    assert (stream.answered, sorted(stream.dropped)) == ([1], [2, 3])


async def test_an_answer_that_cannot_be_written_is_refused() -> None:
    """Its question does not wait for ever, and those behind it are answered."""
    stream: Any = Stream()
    stream.cannot_write = {1}
    sequence = Sequence(stream, 7, cast(Any, Talk()), READER)
    for token in (1, 2):
        sequence.ask(question(token))
    async with asyncio.timeout(5):
        while len(stream.answered) + len(stream.refused) < 2:
            await asyncio.sleep(0)
    assert (stream.refused, stream.answered) == (["1 cannot be written"], [2])
