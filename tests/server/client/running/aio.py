"""Concurrency: tasks of one event loop. `blocking` has the same for threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from carousel.client.wires.aio import WireOptions

WIRES = [WireOptions(), WireOptions(shares_streams=False)]  # over which the same must hold
SECONDS = 20  # after which what does not end has failed


class Running:
    """A started request, possibly without an answer."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._task = asyncio.ensure_future(ask())

    async def result(self) -> Any:
        """Raises the request's error."""
        return await asyncio.wait_for(self._task, SECONDS)

    async def outcome(self) -> Any:
        """Returns the answer, or the error."""
        return (await asyncio.gather(self.result(), return_exceptions=True))[0]


class Meeting:
    """All `size` tasks wait until all have arrived."""

    def __init__(self, size: int) -> None:
        self._barrier = asyncio.Barrier(size)

    async def wait(self, seconds: float) -> None:
        """Replaces a pause of this many seconds."""
        await asyncio.wait_for(self._barrier.wait(), SECONDS)


async def happens(event: threading.Event) -> bool:
    """Returns whether a server's thread has set the event, or sets it soon."""
    return await asyncio.to_thread(event.wait, SECONDS)
