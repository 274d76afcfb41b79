"""Tasks of the Redis store: what must not stop halfway, and what runs beside it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class RedisWork:
    """Owns every task of a store."""

    def __init__(self) -> None:
        self._whole: set[asyncio.Task[Any]] = set()
        self._beside: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """Its result. When the caller is cancelled, the work goes on to its end without him."""
        return await asyncio.shield(self.begin(work, name))

    def begin(self, work: Coroutine[Any, Any, Result], name: str) -> "asyncio.Task[Result]":
        """Work that `close` waits for."""
        return _own(self._whole, work, name)

    def run_beside(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Work that `close` stops."""
        _own(self._beside, work, name)

    async def close(self) -> None:
        """What must be whole takes no longer than the link's patience. It may begin more."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        while self._whole:
            await asyncio.wait(self._whole)
            await asyncio.sleep(0)  # until those that are done have left the set


def _own(tasks: "set[asyncio.Task[Any]]", work: Coroutine[Any, Any, Result], name: str) -> "asyncio.Task[Result]":
    task = asyncio.create_task(work, name=name)
    tasks.add(task)

    def leave(done: "asyncio.Task[Result]") -> None:
        tasks.discard(done)
        if not done.cancelled():
            done.exception()  # looked at: whoever was to be told may have gone

    task.add_done_callback(leave)
    return task
