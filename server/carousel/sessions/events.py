"""What happens to sessions, told to whoever watches. Bounded per watcher; nobody is waited for."""

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from carousel.errors import Overloaded

_MAX_BEHIND = 10_000


class EventKind(enum.Enum):
    CREATED = "created"
    DELETED = "deleted"
    EXPIRED = "expired"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class SessionEvent:
    kind: EventKind
    session_id: str
    owner: str
    at: float  # seconds since the epoch


class EventHub:
    """Hands every event to the watchers of its owner."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[asyncio.Queue[SessionEvent | None]]] = {}

    def publish(self, event: SessionEvent) -> None:
        for queue in self._watchers.get(event.owner, ()):
            if queue.qsize() < _MAX_BEHIND:
                queue.put_nowait(event)
            elif not queue.full():
                queue.put_nowait(None)  # where some are missing

    @contextlib.contextmanager
    def watch(self, owner: str) -> Iterator[AsyncIterator[SessionEvent]]:
        """Events from now on. Reading raises Overloaded once the reader has missed some."""
        queue: asyncio.Queue[SessionEvent | None] = asyncio.Queue(_MAX_BEHIND + 1)
        self._watchers.setdefault(owner, []).append(queue)
        try:
            yield _read(queue)
        finally:
            self._watchers[owner].remove(queue)
            if not self._watchers[owner]:
                del self._watchers[owner]


async def _read(queue: "asyncio.Queue[SessionEvent | None]") -> AsyncIterator[SessionEvent]:
    while (event := await queue.get()) is not None:
        yield event
    raise Overloaded("events were missed; list the sessions and watch again", limit="watch", retry_seconds=0.1)
