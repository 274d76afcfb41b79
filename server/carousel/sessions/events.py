"""Events of sessions, for their watchers. Each watcher's backlog is bounded; the server waits for no watcher."""

import asyncio
import collections
import contextlib
import enum
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from carousel.errors import Overloaded
from carousel.shares import LimitsByOwner, OwnerLimits

_MAX_BEHIND = 10_000
_RETRY_SECONDS = 1.0
_NO_LIMITS = OwnerLimits()
_WOKEN_AT_ONCE = 32  # each writes a message: 50 microseconds of the event loop


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
    """Hands every event to its owner's watchers. Publishing costs the same for one watcher and for a thousand: an
    owner's watchers read one list, each from its own place, and wake a few at a time."""

    def __init__(self, owner_limits: LimitsByOwner = _NO_LIMITS) -> None:
        self._limits = owner_limits
        self._boards: dict[str, _Board] = {}  # of owners that have watchers

    def publish(self, event: SessionEvent) -> None:
        board = self._boards.get(event.owner)
        if board is not None:
            board.add(event)

    @contextlib.contextmanager
    def watch(self, owner: str) -> Iterator[AsyncIterator[SessionEvent]]:
        """Yields events from now on. Raises Overloaded when the owner has the maximum number of watchers. Reading
        raises Overloaded when the reader has missed events."""
        board = self._boards.setdefault(owner, _Board())
        most = self._limits.of(owner).max_watches
        if most is not None and board.num_watchers >= most:
            text = f"{board.num_watchers} watches of yours are open"
            raise Overloaded(text, limit="max_watches_per_owner", retry_seconds=_RETRY_SECONDS)
        board.num_watchers += 1
        try:
            yield board.read(board.end)
        finally:
            board.num_watchers -= 1
            if not board.num_watchers:
                del self._boards[owner]


class _Board:
    """One owner's last events. Their numbers count from the first event; `end` is the next event's number."""

    def __init__(self) -> None:
        self.num_watchers = 0
        self.end = 0
        self._events: collections.deque[SessionEvent] = collections.deque()
        self._waiting: dict[asyncio.Future[None], int] = {}  # each with its event's number, lowest first
        self._waking: dict[asyncio.Future[None], int] = {}

    def add(self, event: SessionEvent) -> None:
        self.end += 1
        self._events.append(event)
        if len(self._events) > _MAX_BEHIND:
            self._events.popleft()
        if not self._waking:
            self._begin_to_wake()

    async def read(self, number: int) -> AsyncIterator[SessionEvent]:
        """Yields the events from that number on, without end."""
        while True:
            if number == self.end:
                await self._wait()
                continue
            first = self.end - len(self._events)
            if number < first:
                text = "events were missed; list the sessions and watch again"
                raise Overloaded(text, limit="watch", retry_seconds=0.1)
            yield self._events[number - first]
            number += 1

    async def _wait(self) -> None:
        """Waits for the next event. When all watchers wait, no watcher needs the old events."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = self.end
        if len(self._waiting) == self.num_watchers:
            self._events.clear()
        try:
            await waiting
        finally:
            self._waiting.pop(waiting, None)

    def _begin_to_wake(self) -> None:
        """Begins to wake the watchers whose event has come."""
        lowest = next(iter(self._waiting.values()), self.end)
        if lowest < self.end:
            self._waking, self._waiting = self._waiting, {}
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        """Wakes a few watchers. The event loop does other work before it wakes the next."""
        for _ in range(min(_WOKEN_AT_ONCE, len(self._waking))):
            waiting, _number = self._waking.popitem()
            if not waiting.done():
                waiting.set_result(None)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake)
        else:
            self._begin_to_wake()
