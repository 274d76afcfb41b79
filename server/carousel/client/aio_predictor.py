"""Predictions over one stream that stays open, for the asyncio client: on a sequence of its own, or on a session's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from carousel.client import calls
from carousel.client.aio_transport import AsyncRepeat, read_message
from carousel.client.errors import ServerError, ended_early, read_error
from carousel.client.options import CallOptions, PredictWishes, Prompt, split_options
from carousel.client.results import Prediction
from carousel.client.session_turns import SafeTurn, SessionTurns


class AsyncPredictor:
    """Predictions on one sequence, over one stream. Use it as a context manager, which ends the stream."""

    def __init__(self, call: Any, parse: Callable[[Any], Prediction], address: str, where: tuple[str, str]) -> None:
        self._parse = parse
        self._where = where  # session id, model
        self._line = _Line(call, address)

    async def __call__(self, prompt: Prompt = "", **wishes: Unpack[PredictWishes]) -> Prediction:
        """Feed `prompt` and name what may follow: k tokens, and words that begin with `word_prefix`, which is not fed.

        Raises ServerError; the stream is over then.
        """
        wanted, _ = split_options(wishes, PredictWishes)
        return self._parse(await self._line.exchange(calls.predict_request(prompt, *self._where, wanted)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        await self._line.end(is_orderly=kind is None)


class AsyncSessionPredictor:
    """Predictions on a session. When the stream breaks, another one is opened and the question is put again."""

    def __init__(self, turns: SessionTurns, repeat: AsyncRepeat, start: Callable[[CallOptions], Any]) -> None:
        self._turns = turns
        self._repeat = repeat
        self._start = start
        self._line: _Line | None = self._open()

    async def __call__(self, prompt: Prompt = "", **wishes: Unpack[PredictWishes]) -> Prediction:
        """As `AsyncPredictor`; the session moves on once, however often the question has to be put."""
        wanted, _ = split_options(wishes, PredictWishes)
        turn = self._turns.predict(prompt, wanted)
        try:
            return await self._ask(turn)
        except BaseException:  # cancelled; after a failure this changes nothing
            turn.give_up()
            if self._line is not None:
                self._line.drop()
                self._line = None
            raise

    async def _ask(self, turn: SafeTurn[Prediction]) -> Prediction:
        while True:
            try:
                self._line = self._line or self._open()
                prediction = turn.call.parse(await self._line.exchange(turn.call.request))
            except ServerError as error:
                await self._end(is_orderly=False)
                try:
                    if not turn.is_overtaken(error):
                        await self._repeat.pause_after(error)
                except ServerError:
                    turn.fail(error)
                    raise
            else:
                turn.take(prediction)
                self._repeat.attempts.note_progress()
                return prediction

    def _open(self) -> "_Line":
        return _Line(self._start(self._repeat.options), self._repeat.address)

    async def _end(self, *, is_orderly: bool) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.end(is_orderly=is_orderly)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        await self._end(is_orderly=kind is None)


class _Line:
    """A stream in both directions: a request, its answer, the next request."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address
        # Always reading: grpc.aio learns of the stream's end, and of its error, only while it reads.
        self._reading = asyncio.create_task(read_message(call, address))

    async def exchange(self, request: Any) -> Any:
        """The wire's answer. Raises ServerError; the stream is over then."""
        if not self._reading.done():
            await self._write(request)
        message = await self._reading
        if message is grpc.aio.EOF:
            raise ended_early()
        self._reading = asyncio.create_task(read_message(self._call, self._address))
        return message

    async def _write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:
            pass  # the stream has ended meanwhile, and the reader will say how
        except grpc.RpcError as error:
            failure = read_error(error, self._address)
            is_hidden = error.code() is grpc.StatusCode.INTERNAL and not failure.reason
            raise (ended_early() if is_hidden else failure) from error  # grpc.aio hides how the stream ended

    def drop(self) -> None:
        """When there is no time to await the end."""
        self._reading.cancel()
        self._call.cancel()

    async def end(self, *, is_orderly: bool) -> None:
        """In order: the server has the time to say that it is over, too."""
        if is_orderly and not self._reading.done():
            with suppress(asyncio.InvalidStateError, grpc.RpcError):  # what was asked has been answered
                await self._call.done_writing()
                await asyncio.wait([self._reading])
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
