"""Streams of answers: of a plain call, or of a session's turn, which survives a broken connection."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Self, TypeVar

from carousel.client._async.repeat import Repeat
from carousel.client._async.wire import Answers
from carousel.client.core.errors import ServerError, ended_early
from carousel.client.core.options import CallOptions
from carousel.client.core.session_turns import SafeTurn

Answer = TypeVar("Answer")


class AsyncStream(Generic[Answer]):
    """A stream of answers. Closing it, or dropping it before its last answer, cancels the call."""

    def __init__(self, answers: Answers, parse: Callable[[Any], Answer]) -> None:
        self._answers = answers
        self._parse = parse

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        message = await self._answers.read()
        if message is None:
            raise StopAsyncIteration
        return self._parse(message)

    async def wait_until_open(self) -> Self:
        """Returns when the server has answered for the first time, or failed; a read shows which."""
        await self._answers.wait_until_open()
        return self

    async def close(self) -> None:
        self._answers.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()


class TurnStream(AsyncStream[Answer]):
    """The answers of a session's turn. When the stream breaks, it is opened again and continues where it stopped."""

    def __init__(self, turn: SafeTurn[Answer], repeat: Repeat, start: Callable[[CallOptions], Answers]) -> None:
        super().__init__(start(repeat.options), turn.call.parse)
        self._turn = turn
        self._repeat = repeat
        self._start = start
        self._new: deque[Answer] = deque()  # read, but not yet returned

    async def __anext__(self) -> Answer:
        try:
            return await self._read_new()
        except BaseException:  # cancelled or interrupted; after an end or a failure this changes nothing
            await self.close()
            raise

    async def _read_new(self) -> Answer:
        while not self._new:
            try:
                answer = await self._read()
            except ServerError as error:
                await self._begin_again(error)
            else:
                self._new.extend(self._turn.accept(answer))
                if self._new:
                    self._repeat.attempts.note_progress()
        return self._new.popleft()

    async def _read(self) -> Answer:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            if self._turn.is_done:
                raise
            raise ended_early() from None
        except ServerError:
            if self._turn.is_done:  # the last answer has arrived; how the connection ended does not matter
                raise StopAsyncIteration from None
            raise

    async def _begin_again(self, error: ServerError) -> None:
        try:
            if not self._turn.is_overtaken(error):
                await self._repeat.pause_after(error)
            self._turn.restart()
            self._answers = self._start(self._repeat.options)
        except ServerError:
            self._turn.fail(error)
            raise

    async def close(self) -> None:
        """Closes the stream. Before the last answer, it is unknown whether the turn was applied."""
        self._turn.give_up()
        await super().close()
