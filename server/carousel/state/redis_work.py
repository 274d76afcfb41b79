"""Tasks of the Redis store: work that must not stop halfway, and work in the background."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class RedisWork:
    """The owner of every task of a store."""

    def __init__(self) -> None:
        self._whole: set[asyncio.Task[Any]] = set()
        self._beside: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """Returns the work's result. When the caller is cancelled, the work still runs to its end."""
        return await asyncio.shield(self.begin(work, name))

    def begin(self, work: Coroutine[Any, Any, Result], name: str) -> "asyncio.Task[Result]":
        """Starts work that `close` waits for."""
        return _own(self._whole, work, name)

    def run_beside(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Starts work that `close` stops."""
        _own(self._beside, work, name)

    async def close(self) -> None:
        """Work that must finish takes no longer than the link's patience. It may start more work."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        while self._whole:
            await asyncio.wait(self._whole)
            await asyncio.sleep(0)  # until finished tasks have left the set


def _own(tasks: "set[asyncio.Task[Any]]", work: Coroutine[Any, Any, Result], name: str) -> "asyncio.Task[Result]":
    task = asyncio.create_task(work, name=name)
    tasks.add(task)

    def leave(done: "asyncio.Task[Result]") -> None:
        tasks.discard(done)
        if not done.cancelled():
            done.exception()  # retrieves the exception: its caller may be gone

    task.add_done_callback(leave)
    return task
