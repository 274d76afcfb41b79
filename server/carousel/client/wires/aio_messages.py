"""The messages of a grpc.aio call; each failure becomes its ServerError."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio

from carousel.client.core.errors import ServerError, cancelled, ended_early, read_error


async def read(call: Any, address: str) -> Any:
    """Returns the next message; None at the call's end. Keep one read open at all times: only a read shows grpc.aio the
    call's end and its error."""
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
        pass  # the call has ended meanwhile; the reader reports how
    except grpc.RpcError as error:
        failure = read_error(error, address)
        failure.__cause__ = error
        raise (ended_early() if is_hidden(failure) else failure) from error
    except asyncio.CancelledError:
        if _num_cancels() > num_cancels:
            raise
        raise cancelled() from None


async def write_first(call: Any, request: Any, address: str, reading: asyncio.Task[Any]) -> None:
    """Writes the call's first message. When the call ends before it begins, grpc.aio never returns from the write. Only
    `reading`, which reads the call, sees the end and reports it."""
    writing = asyncio.create_task(write(call, request, address))
    writing.add_done_callback(note_failure)
    try:
        await asyncio.wait([writing, reading], return_when=asyncio.FIRST_COMPLETED)
        if writing.done() or not _is_over(reading):
            await writing
    finally:
        writing.cancel()


def note_failure(task: asyncio.Task[Any]) -> None:
    """The next caller gets the error. When there is none, asyncio need not log it."""
    if not task.cancelled():
        task.exception()


def is_hidden(failure: ServerError) -> bool:
    """Returns whether the call's end is unknown: after a failed write grpc.aio reports INTERNAL, sometimes to the
    reader too."""
    error = failure.__cause__
    is_internal = isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.INTERNAL
    return is_internal and not failure.reason


def _is_over(reading: asyncio.Task[Any]) -> bool:
    """Returns whether the call has ended and has no more messages."""
    return reading.done() and (reading.cancelled() or reading.exception() is not None or reading.result() is None)


def _num_cancels() -> int:
    """Returns the number of cancellations of the current task, including swallowed ones. A CancelledError without a new
    one means that only the call was cancelled, not its reader: grpc.aio raises the same error for both."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
