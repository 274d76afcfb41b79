"""Work that goes on to its end although its caller is cancelled: a write must not be left in doubt."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


async def finish(
    work: Coroutine[Any, Any, Result], undo: Callable[[Result], Coroutine[Any, Any, None]] | None = None
) -> Result:
    """Run to the end, however often the caller is cancelled meanwhile. Its cancellation comes after that, and after
    `undo` of what was done."""
    task = asyncio.ensure_future(work)
    cancelled = await _wait(task)
    if cancelled is None:
        return task.result()
    if task.exception() is None and undo is not None:  # the exception is looked at: nobody is left to be told
        await _wait(asyncio.ensure_future(undo(task.result())))
    raise cancelled


async def _wait(task: "asyncio.Future[Any]") -> asyncio.CancelledError | None:
    """Until the task is done; the last cancellation of the caller meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        waiter: asyncio.Future[None] = task.get_loop().create_future()  # asyncio.wait would cost three times as much
        task.add_done_callback(partial(_wake, waiter))
        try:
            await waiter
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _wake(waiter: "asyncio.Future[None]", task: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_result(None)
