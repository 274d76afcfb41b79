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
    try:
        return await answer
    except grpc.RpcError as error:
        raise read_error(error, address) from error
    except asyncio.CancelledError:
        if _is_task_cancelled():
            raise
        raise cancelled() from None


async def write(call: Any, request: Any, address: str) -> None:
    try:
        await call.write(request)
    except asyncio.InvalidStateError:
        pass  # the call has ended meanwhile, and the reader will say how
    except grpc.RpcError as error:
        failure = read_error(error, address)
        failure.__cause__ = error
        raise (ended_early() if is_hidden(failure) else failure) from error


def is_hidden(failure: ServerError) -> bool:
    """Whether how the call ended is not known: after a write that failed grpc.aio says INTERNAL, at times to the reader
    too."""
    error = failure.__cause__
    is_internal = isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.INTERNAL
    return is_internal and not failure.reason


def _is_task_cancelled() -> bool:
    """Asked after a CancelledError: grpc.aio raises one also when the call alone was cancelled, not its reader."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
