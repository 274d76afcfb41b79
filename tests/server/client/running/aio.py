"""Several things at once: tasks of one event loop. `blocking` has the same for threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from carousel.client.wires.aio import WireOptions

WIRES = [WireOptions(), WireOptions(shares_streams=False)]  # over which the same must hold
SECONDS = 20  # after which what does not end has failed


class Running:
    """Something that has been asked, and may not have been answered."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._task = asyncio.ensure_future(ask())

    async def result(self) -> Any:
        """Raises what it raises."""
        return await asyncio.wait_for(self._task, SECONDS)

    async def outcome(self) -> Any:
        """Its answer, or what it raises."""
        return (await asyncio.gather(self.result(), return_exceptions=True))[0]


class Meeting:
    """All of `size` wait until all are there."""

    def __init__(self, size: int) -> None:
        self._barrier = asyncio.Barrier(size)

    async def wait(self, seconds: float) -> None:
        """It stands in for a pause of so many seconds."""
        await asyncio.wait_for(self._barrier.wait(), SECONDS)


async def happens(event: threading.Event) -> bool:
    """Whether a server's thread has set it, or does so soon."""
    return await asyncio.to_thread(event.wait, SECONDS)
