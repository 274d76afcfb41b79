"""One thread for long work, in which owners take turns: no owner waits for all the work of another."""

import asyncio
import collections
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")
_Line = collections.deque[asyncio.Future[None]]


class FairThread:
    """Runs one piece of work at a time. Owners take turns, each with its oldest work. Belongs to one event loop."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._lines: collections.OrderedDict[str, _Line] = collections.OrderedDict()  # the next owner is first
        self._is_busy = False

    async def run(self, owner: str, work: Callable[[], Value]) -> Value:
        (value,) = await self.run_parts(owner, (work,))
        return value

    async def run_parts(self, owner: str, parts: Iterable[Callable[[], Value]]) -> list[Value]:
        """Runs one piece of work that holds the GIL. Between its parts, the event loop gets the GIL."""
        if self._is_busy:
            await self._wait(owner)
        self._is_busy = True
        try:
            return [await asyncio.get_running_loop().run_in_executor(self._thread, part) for part in parts]
        finally:
            self._call_next()

    def close(self) -> None:
        """Closes without waiting for work whose caller is gone."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _wait(self, owner: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(owner, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._call_next()  # it was just called
            raise

    def _call_next(self) -> None:
        """Calls the next owner, which then goes to the end if it has more work. Cancelled waiters are skipped."""
        while self._lines:
            owner, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[owner] = line
            if not turn.done():
                turn.set_result(None)  # the thread stays taken, for it
                return
        self._is_busy = False
