"""One turn at a time on a session, in order of arrival, with a bound on the number that wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from carousel.errors import Overloaded

Key = tuple[str, str]  # owner, session id


class TurnOrder:
    """One lock per session. A lock exists only while a turn holds it or waits for it."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}  # with the number of holders and waiters

    def is_held(self, key: Key) -> bool:
        """Whether a turn holds the session or waits for it."""
        return key in self._locks

    @contextlib.asynccontextmanager
    async def hold(self, key: Key) -> AsyncIterator[None]:
        """Holds the session for one turn. Raises Overloaded when `max_waiting` turns already wait for it."""
        lock, num_here = self._locks.get(key) or (asyncio.Lock(), 0)
        if num_here > self._max_waiting:
            raise Overloaded(
                f"{num_here - 1} turns wait for session {key[1]} already",
                limit="max_turns_per_session",
                retry_seconds=0.5,
            )
        self._locks[key] = (lock, num_here + 1)
        try:
            async with lock:
                yield
        finally:
            _, num_here = self._locks[key]
            if num_here == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, num_here - 1)
