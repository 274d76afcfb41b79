"""One turn at a time on a session, in order of arrival, with a bound on how many wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from carousel.errors import Overloaded


class TurnOrder:
    """Locks by session id that exist only while somebody holds or awaits them."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # with the number of holders and waiters

    def is_held(self, session_id: str) -> bool:
        return session_id in self._locks

    @contextlib.asynccontextmanager
    async def hold(self, session_id: str) -> AsyncIterator[None]:
        """Raises Overloaded when `max_waiting` turns wait for this session already."""
        lock, num_here = self._locks.get(session_id) or (asyncio.Lock(), 0)
        if num_here > self._max_waiting:
            raise Overloaded(
                f"{num_here - 1} turns wait for session {session_id} already",
                limit="max_turns_per_session",
                retry_seconds=0.5,
            )
        self._locks[session_id] = (lock, num_here + 1)
        try:
            async with lock:
                yield
        finally:
            _, num_here = self._locks[session_id]
            if num_here == 1:
                del self._locks[session_id]
            else:
                self._locks[session_id] = (lock, num_here - 1)
