"""The asyncio client's wire, over grpc.aio. `_async/wire.py` says what it keeps to; `blocking` is its twin."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from carousel.client.core.calls import Call
from carousel.client.core.connection import CHANNEL_OPTIONS, Connection
from carousel.client.core.errors import ServerError, cancelled, ended_early, read_error
from carousel.client.core.options import CallOptions

Sleep = Callable[[float], Awaitable[None]]
sleep: Sleep = asyncio.sleep


class GrpcWire:
    """It belongs to the event loop that runs when it is made."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = (
            grpc.aio.secure_channel(connection.address, connection.credentials, CHANNEL_OPTIONS)
            if connection.credentials
            else grpc.aio.insecure_channel(connection.address, CHANNEL_OPTIONS)
        )
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()  # calls; closing the channel leaves some of them hanging

    async def close(self) -> None:
        for call in list(self._open):
            call.cancel()
        await self._channel.close()

    async def ask(self, call: Call[Any], options: CallOptions) -> Any:
        return await _receive(self._start(call, options), self._connection.address)

    def stream(self, call: Call[Any], options: CallOptions) -> "_Answers":
        return _Answers(self._start(call, options), self._connection.address)

    def line(self, call: Call[Any], options: CallOptions) -> "_Line":
        return _Line(self._start(call, options), self._connection.address)

    def _start(self, call: Call[Any], options: CallOptions) -> Any:
        """The library's own call. One whose `request` is None waits for somebody to write."""
        method = getattr(call.stub(self._channel), call.method)
        request = () if call.request is None else (call.request,)
        started = method(*request, **self._connection.arguments(call, options))
        self._open.add(started)
        return started


class _Answers:
    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    async def read(self) -> Any:
        return await _read(self._call, self._address)

    async def wait_until_open(self) -> None:
        await asyncio.gather(self._call.initial_metadata(), return_exceptions=True)

    def cancel(self) -> None:
        self._call.cancel()


class _Line:
    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address
        self._reading = self._read_next()

    async def exchange(self, request: Any) -> Any:
        try:
            return await self._exchange(request)
        except ServerError:
            await self.end(is_orderly=False)
            raise

    async def end(self, *, is_orderly: bool) -> None:
        if is_orderly and not self._reading.done():
            with suppress(asyncio.InvalidStateError, grpc.RpcError):
                await self._call.done_writing()
                await asyncio.wait([self._reading])
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def drop(self) -> None:
        self._reading.cancel()
        self._call.cancel()

    async def _exchange(self, request: Any) -> Any:
        if not self._reading.done():
            await self._write(request)
        message = await self._reading
        if message is None:
            raise ended_early()
        self._reading = self._read_next()
        return message

    def _read_next(self) -> asyncio.Task[Any]:
        """Always reading: grpc.aio learns of the call's end, and of its error, only while it reads."""
        reading = asyncio.create_task(_read(self._call, self._address))
        reading.add_done_callback(_note_failure)
        return reading

    async def _write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:
            pass  # the call has ended meanwhile, and the reader will say how
        except grpc.RpcError as error:
            failure = read_error(error, self._address)
            is_hidden = error.code() is grpc.StatusCode.INTERNAL and not failure.reason
            raise (ended_early() if is_hidden else failure) from error  # grpc.aio hides how the call ended


def _note_failure(reading: asyncio.Task[Any]) -> None:
    """Whoever asks next is told; when nobody asks any more, it is no news that asyncio should log."""
    if not reading.cancelled():
        reading.exception()


async def _read(call: Any, address: str) -> Any:
    """A call's next message; None at its end."""
    message = await _receive(call.read(), address)
    return None if message is grpc.aio.EOF else message


async def _receive(answer: Awaitable[Any], address: str) -> Any:
    try:
        return await answer
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
