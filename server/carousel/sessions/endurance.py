"""Work that completes even if its caller is cancelled: no write stays in doubt."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


async def finish(
    work: Coroutine[Any, Any, Result], undo: Callable[[Result], Coroutine[Any, Any, None]] | None = None
) -> Result:
    """Runs the work to its end, however often the caller is cancelled meanwhile. The cancellation is raised after the
    work, and after `undo` of its result."""
    task = asyncio.ensure_future(work)
    cancelled = await _wait(task)
    if cancelled is None:
        return task.result()
    if task.exception() is None and undo is not None:  # reading the exception marks it as retrieved; no caller is left
        await _wait(asyncio.ensure_future(undo(task.result())))
    raise cancelled


async def _wait(task: "asyncio.Future[Any]") -> asyncio.CancelledError | None:
    """Waits until the task is done. Returns the caller's last cancellation meanwhile, if any."""
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
