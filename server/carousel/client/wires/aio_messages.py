"""The messages of a grpc.aio call, each failure as the ServerError that it means."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio

from carousel.client.core.errors import ServerError, cancelled, ended_early, read_error


async def read(call: Any, address: str) -> Any:
    """The next one; None at the call's end. Always have one reading: grpc.aio learns of the end, and of its error, only
    then."""
    message = await receive(call.read(), address)
    return None if message is grpc.aio.EOF else message


async def receive(answer: Awaitable[Any], address: str) -> Any:
    num_cancels = _num_cancels()
    try:
        return await answer
    except grpc.RpcError as error:
        raise read_error(error, address) from error
    except asyncio.CancelledError:
        if _num_cancels() > num_cancels:
            raise
        raise cancelled() from None


async def write(call: Any, request: Any, address: str) -> None:
    num_cancels = _num_cancels()
    try:
        await call.write(request)
    except asyncio.InvalidStateError:
        pass  # the call has ended meanwhile, and the reader will say how
    except grpc.RpcError as error:
        failure = read_error(error, address)
        failure.__cause__ = error
        raise (ended_early() if is_hidden(failure) else failure) from error
    except asyncio.CancelledError:
        if _num_cancels() > num_cancels:
            raise
        raise cancelled() from None


async def write_first(call: Any, request: Any, address: str, reading: asyncio.Task[Any]) -> None:
    """The call's first message. When the call ends before it has begun, grpc.aio never returns from a write, and
    `reading`, which reads the call, alone learns of it: it tells how."""
    writing = asyncio.create_task(write(call, request, address))
    writing.add_done_callback(note_failure)
    try:
        await asyncio.wait([writing, reading], return_when=asyncio.FIRST_COMPLETED)
        if writing.done() or not _is_over(reading):
            await writing
    finally:
        writing.cancel()


def note_failure(task: asyncio.Task[Any]) -> None:
    """Whoever asks next is told; when nobody asks any more, it is no news that asyncio should log."""
    if not task.cancelled():
        task.exception()


def is_hidden(failure: ServerError) -> bool:
    """Whether how the call ended is not known: after a write that failed grpc.aio says INTERNAL, at times to the reader
    too."""
    error = failure.__cause__
    is_internal = isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.INTERNAL
    return is_internal and not failure.reason


def _is_over(reading: asyncio.Task[Any]) -> bool:
    """The call is, and has no message any more."""
    return reading.done() and (reading.cancelled() or reading.exception() is not None or reading.result() is None)


def _num_cancels() -> int:
    """Of the task that asks, also those that it has swallowed. A CancelledError without another one means that the call
    alone was cancelled, not its reader: grpc.aio raises the same."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
