"""One thread for work that takes long, in which owners take turns: nobody waits for all that another has asked for."""

import asyncio
import collections
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")
_Line = collections.deque[asyncio.Future[None]]


class FairThread:
    """One piece of work at a time. Owners take turns, each with what he asked first; belongs to one event loop."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._lines: collections.OrderedDict[str, _Line] = collections.OrderedDict()  # whose turn is next comes first
        self._is_busy = False

    async def run(self, owner: str, work: Callable[[], Value]) -> Value:
        (value,) = await self.run_parts(owner, (work,))
        return value

    async def run_parts(self, owner: str, parts: Iterable[Callable[[], Value]]) -> list[Value]:
        """One piece of work that keeps Python's lock: between its parts the event loop gets it."""
        if self._is_busy:
            await self._wait(owner)
        self._is_busy = True
        try:
            return [await asyncio.get_running_loop().run_in_executor(self._thread, part) for part in parts]
        finally:
            self._call_next()

    def close(self) -> None:
        """Without waiting for what nobody wants any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _wait(self, owner: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(owner, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._call_next()  # it was called just now
            raise

    def _call_next(self) -> None:
        """Whoever is called goes to the end, if he has more; who was cancelled meanwhile is passed over."""
        while self._lines:
            owner, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[owner] = line
            if not turn.done():
                turn.set_result(None)  # the thread stays taken, for it
                return
        self._is_busy = False
