"""How the asyncio client makes its calls and reads their answers: once, or again while that is safe.

It knows neither what the calls carry nor what a session is.
"""

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio

from carousel.client.calls import Call, Connection
from carousel.client.errors import AnswerChanged, ServerError, cancelled, ended_early, read_error
from carousel.client.options import CallOptions
from carousel.client.retries import Attempts, Retries
from carousel.client.session_turns import SafeTurn

Answer = TypeVar("Answer")


class AsyncStream(Generic[Answer]):
    """Answers as they come. Closing it, or dropping it before its last answer, cancels the call."""

    def __init__(self, call: Any, parse: Callable[[Any], Answer], address: str) -> None:
        self._call = call
        self._parse = parse
        self._address = address

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        message = await read_message(self._call, self._address)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._parse(message)

    async def wait_until_open(self) -> Self:
        """Until the server has answered for the first time, or failed: reading tells which."""
        await asyncio.gather(self._call.initial_metadata(), return_exceptions=True)
        return self

    async def close(self) -> None:
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()


class AsyncTurnStream(AsyncStream[Answer]):
    """The answers of a session's turn. When the stream breaks, it is asked for again and goes on where it stopped."""

    def __init__(self, turn: SafeTurn[Answer], repeat: "AsyncRepeat", start: Callable[[CallOptions], Any]) -> None:
        super().__init__(start(repeat.options), turn.call.parse, repeat.address)
        self._turn = turn
        self._repeat = repeat
        self._start = start
        self._new: deque[Answer] = deque()  # read, and not yet handed on

    async def __anext__(self) -> Answer:
        while not self._new:
            try:
                answer = await self._read()
            except ServerError as error:
                await self._begin_again(error)
            except asyncio.CancelledError:
                self._turn.give_up()
                raise
            else:
                self._take(answer)
        return self._new.popleft()

    def _take(self, answer: Answer) -> None:
        try:
            self._new.extend(self._turn.take(answer))
        except AnswerChanged:
            self._call.cancel()
            raise
        if self._new:
            self._repeat.attempts.note_progress()

    async def _read(self) -> Answer:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            if self._turn.is_done:
                raise
            raise ended_early() from None
        except ServerError:
            if self._turn.is_done:  # the last answer is here; how the connection ended is of no interest
                raise StopAsyncIteration from None
            raise

    async def _begin_again(self, error: ServerError) -> None:
        try:
            if not self._turn.is_overtaken(error):
                await self._repeat.pause_after(error)
        except ServerError:
            self._turn.fail(error)
            raise
        except asyncio.CancelledError:
            self._turn.give_up()
            raise
        self._turn.restart()
        self._call = self._start(self._repeat.options)

    async def close(self) -> None:
        """Before the last answer, whether the turn was applied is not known."""
        self._turn.give_up()
        await super().close()


class AsyncRepeat:
    """The attempts at one call."""

    def __init__(
        self, attempts: Attempts, options: CallOptions, sleep: Callable[[float], Awaitable[None]], address: str
    ) -> None:
        self.attempts = attempts
        self.address = address
        self._options = options
        self._sleep = sleep

    @property
    def options(self) -> CallOptions:
        """The next attempt's."""
        return self.attempts.limit(self._options)

    async def pause_after(self, error: ServerError) -> None:
        """Raises `error` when the call shall not be made again."""
        await self._sleep(self.attempts.pause_after(error))


class AsyncTransport:
    """A channel, and what every call over it has in common."""

    def __init__(
        self, channel: Any, connection: Connection, retries: Retries, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self.address = connection.address
        self._channel = channel
        self._connection = connection
        self._retries = retries
        self._sleep = sleep
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()  # calls; closing the channel leaves some of them hanging

    async def close(self) -> None:
        """Cancels the calls that are still open."""
        for call in list(self._open):
            call.cancel()
        await self._channel.close()

    async def ask(self, call: Call[Answer], options: CallOptions) -> Answer:
        try:
            return call.parse(await self.start(call, options))
        except grpc.RpcError as error:
            raise read_error(error, self.address) from error
        except asyncio.CancelledError:
            if _is_task_cancelled():
                raise
            raise cancelled() from None

    async def ask_safely(self, call: Call[Answer], options: CallOptions) -> Answer:
        """Again while that may help. For calls that do no harm when they are made twice."""
        repeat = self.repeat(options)
        while True:
            try:
                return await self.ask(call, repeat.options)
            except ServerError as error:
                await repeat.pause_after(error)

    def stream(self, call: Call[Answer], options: CallOptions) -> AsyncStream[Answer]:
        return AsyncStream(self.start(call, options), call.parse, self.address)

    def follow(self, turn: SafeTurn[Answer], options: CallOptions) -> AsyncTurnStream[Answer]:
        return AsyncTurnStream(turn, self.repeat(options), lambda left: self.start(turn.call, left))

    def repeat(self, options: CallOptions) -> AsyncRepeat:
        attempts = Attempts(self._retries, self._connection.timeout(options))
        return AsyncRepeat(attempts, options, self._sleep, self.address)

    def start(self, call: Call[Any], options: CallOptions) -> Any:
        """The library's own call. One whose `request` is None waits for the caller to write."""
        method = getattr(call.stub(self._channel), call.method)
        request = () if call.request is None else (call.request,)
        started = method(*request, **self._connection.arguments(call, options))
        self._open.add(started)
        return started


async def read_message(call: Any, address: str) -> Any:
    """The stream's next message, or grpc.aio.EOF."""
    try:
        return await call.read()
    except grpc.RpcError as error:
        raise read_error(error, address) from error
    except asyncio.CancelledError:
        if _is_task_cancelled():
            raise
        raise cancelled() from None


def _is_task_cancelled() -> bool:
    """Asked after a CancelledError: grpc.aio raises one also when the call alone was cancelled, not its reader."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
