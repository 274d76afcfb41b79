"""How events reach their callers: a ticket for each turn, and a pace for sending tokens.

A token may wait a moment for the next tokens, so that they share a message. All other events go out at once, a turn's
first token above all. Belongs to one event loop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from carousel.errors import CarouselError
from carousel.traces import UNRECORDED, Timeline
from carousel.turns import Ended, Event, Generated


class Ticket:
    """The caller's side of a turn. Events come in order. The last is exactly one Ended or one error."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._arrived: list[Event] = []
        self._error: CarouselError | None = None
        self._is_due = False  # an event has arrived that must not wait longer
        self._waiter: asyncio.Future[None] | None = None
        self.cancel = cancel  # frees the lane at the next step; harmless after the end

    async def next_events(self) -> list[Event]:
        """Returns all events since the last call, and waits for at least one. Raises the turn's error after them."""
        while not self._is_due:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None and not self._arrived:
            raise self._error  # also at every later call
        arrived, self._arrived, self._is_due = self._arrived, [], self._error is not None
        return arrived

    def add(self, event: Event | CarouselError) -> None:
        """Adds an event. The caller sees it when the ticket is woken."""
        if isinstance(event, CarouselError):
            self._error = event
        else:
            self._arrived.append(event)

    def wake(self) -> None:
        """Lets the caller take the events that have arrived."""
        self._is_due = bool(self._arrived) or self._error is not None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True)
class Entry:
    """A turn that has not ended, as the event loop sees it."""

    ticket: Ticket
    submitted_at: float
    timeline: Timeline = UNRECORDED
    has_spoken: bool = False
    _part: str = "queue"
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.submitted_at

    def begin(self, at: float) -> None:
        """Notes that the turn has a lane."""
        self._enter("prompt", at)

    def hear(self, event: Event | CarouselError, at: float) -> None:
        """Notes an event after its delivery."""
        if not self.has_spoken and isinstance(event, Generated):
            self._enter("generate", at)
        self.has_spoken = True
        if isinstance(event, (Ended, CarouselError)):
            self._enter("", at)

    def _enter(self, part: str, at: float) -> None:
        self.timeline.note(self._part, self._since, at)
        self._part, self._since = part, at


class Pace:
    """Wakes tickets: for a turn's first token and other events at once, for further tokens of all turns together.

    The pause between two such releases is twice the time that the last one kept the event loop busy, so that two thirds
    of its time stay free, but at most `max_delay_seconds`. A single stream hardly waits; with many streams, more tokens
    share a message.
    """

    def __init__(self, max_delay_seconds: float) -> None:
        self._max_delay_seconds = max_delay_seconds
        self._held: set[Ticket] = set()
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def deliver(self, ticket: Ticket, event: Event | CarouselError, *, is_first: bool) -> None:
        ticket.add(event)
        if is_first or not isinstance(event, Generated):
            ticket.wake()
        else:
            self._held.add(ticket)

    def release_due(self) -> None:
        """Releases the held tokens after a step, now or when the release is due."""
        if not self._held or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        if self._due_at <= loop.time():
            self._release()
        else:
            self._timer = loop.call_at(self._due_at, self._release)

    def _release(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        self._due_at = loop.time() + self._max_delay_seconds
        for ticket in self._held:
            ticket.wake()
        self._held.clear()
        loop.call_soon(self._note_sent, loop.time())  # runs after all woken callers

    def _note_sent(self, released_at: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._due_at = min(self._due_at, now + 2 * (now - released_at))
        if self._timer is not None:  # a step has set it before this was known
            self._timer.cancel()
            self._timer = loop.call_at(self._due_at, self._release)
