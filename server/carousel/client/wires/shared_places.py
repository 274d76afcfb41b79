"""The places of an asyncio client's sequences: which stream each sequence shares, and what streams may carry.

A place is a name for balancers, with the stream that is open under it. All calls on the sessions of a place carry its
name, so that a balancer sends them to the server that holds these sessions.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from carousel.client.core.errors import ServerError, ServerUnreachable, closed
from carousel.client.core.spread import Spread
from carousel.client.wires.homes import Homes
from carousel.client.wires.shared_stream import Sequence, SharedStream

MAX_FRAME_BYTES = 16 * 1024  # nearly every server reads this, and nothing waits long behind it
_NUM_PLACES = 2  # so that client and server overlap
FEW = 64  # sequences; up to here a second stream costs more: a frame costs more than its items


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a stream. None means that the server was not asked yet, or does not report it."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    max_message_bytes: int | None = None
    max_sequences: int | None = None


class _Place:
    def __init__(self, name: str) -> None:
        self.name = name
        self.stream: SharedStream | None = None
        self.left: SharedStream | None = None  # the previous one, whose server is shutting down

    @property
    def is_usable(self) -> bool:
        return self.stream is not None and self.stream.failure is None and not self.stream.is_leaving

    @property
    def num_open(self) -> int:
        return self.stream.num_open if self.is_usable and self.stream is not None else 0


@dataclass(eq=False, slots=True)
class Seat:
    """One sequence's place on a stream. `bounds` are those known when the seat was taken."""

    session_id: str
    place: _Place
    stream: SharedStream
    sequence: Sequence
    bounds: Bounds


class SharedPlaces:
    """The places of one client. `is_of_use` turns False when a server does not support shared streams."""

    def __init__(
        self,
        start: Callable[[str], Any],
        ask_limits: Callable[[str], Awaitable[Any]],
        address: str,
        spread: Spread | None = None,
    ) -> None:
        """`start` starts a stream under a name; `ask_limits` asks the server behind that name for the wire's Limits.
        Each connection of `spread` has a place at least, and as many sequences as a stream should have go over all."""
        self._start = start
        self._ask_limits = ask_limits
        self.address = address
        self._spread = spread or Spread(1)
        self._places = list[_Place]()
        for _ in range(max(_NUM_PLACES, self._spread.num_connections)):
            self._add_place()
        self._homes: Homes[_Place] = Homes()
        self._streams: set[SharedStream] = set()  # all that have not failed, including those left behind
        self._asking: asyncio.Task[None] | None = None
        self._is_closed = False
        self.bounds = Bounds()
        self.is_of_use = True

    def home(self, session_id: str) -> str:
        """Returns the name for calls on the session; empty when the session has no place here."""
        place = self._homes.find(session_id) if self.is_of_use else None
        return "" if place is None else place.name

    def assign_seat(self, session_id: str) -> Seat:
        """Returns a seat on a stream with room, and opens one if needed: the session's own stream, one with few
        sequences, or the one with the fewest."""
        if self._is_closed:
            raise closed()
        place = self._homes.find(session_id) if session_id else None
        if place is None or not self._has_room(place):
            place = min(self._places, key=self._crowd)
            if not self._has_room(place):
                place = next(filter(self._has_room, self._places), None) or self._add_place()
        stream = self._open(place)
        if session_id:
            self._homes.enter(session_id, place)
        return Seat(session_id, place, stream, stream.begin(), self.bounds)

    def leave_seat(self, seat: Seat) -> None:
        """Ends the sequence. Call this once."""
        seat.stream.close(seat.sequence)
        if seat.session_id:
            self._homes.leave(seat.session_id)

    def leave_stream(self, seat: Seat) -> None:
        """The seat's server is shutting down: its stream begins nothing new, and another stream replaces it. A place
        waits for one such stream; when the replacement has to leave too, the requests of the first one fail."""
        if seat.stream.is_leaving or seat.stream is not seat.place.stream:
            return
        if seat.place.left is not None:
            seat.place.left.abandon(ServerUnreachable(self.address, "it is shutting down, and so is its successor"))
        seat.place.left = seat.stream
        seat.stream.leave()

    async def learn(self, seat: Seat, ends_at: float | None) -> None:
        """Asks the server for its limits, unless that happened since the seat was taken. Without an answer they stay
        unknown. Returns at `ends_at`, in the event loop's time, at the latest."""
        if self._is_closed or self.bounds is not seat.bounds:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._learn(seat.place.name))
        seconds = None if ends_at is None else max(0.0, ends_at - seat.stream.loop.time())
        await asyncio.wait([self._asking], timeout=seconds)

    async def close(self) -> None:
        """Requests without an answer get none; streams without such requests end in order."""
        self._is_closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await asyncio.gather(*(stream.end() for stream in self._streams))

    async def _learn(self, name: str) -> None:
        try:
            limits = await self._ask_limits(name)
            max_bytes, max_sequences = limits.max_message_bytes or None, limits.max_sequences_per_stream or None
            self.bounds = Bounds(min(MAX_FRAME_BYTES, max_bytes or MAX_FRAME_BYTES), max_bytes, max_sequences)
        except ServerError:
            self.bounds = Bounds()
        for stream in self._streams:
            stream.max_frame_bytes = self.bounds.max_frame_bytes

    def _open(self, place: _Place) -> SharedStream:
        """Returns the place's stream. When all have broken, the server may be a different one, so its limits are
        unknown."""
        if place.stream is not None and place.is_usable:
            return place.stream
        has_broken = place.stream is not None and place.stream.failure is not None and not place.stream.is_cut
        if has_broken and not any(one.is_usable for one in self._places):
            self.bounds = Bounds()
        place.stream = SharedStream(self._start(place.name), self.address, self.bounds.max_frame_bytes)
        self._streams = {one for one in self._streams if one.failure is None} | {place.stream}
        return place.stream

    def _add_place(self) -> _Place:
        self._places.append(_Place(self._spread.make_name(len(self._places))))
        return self._places[-1]

    def _has_room(self, place: _Place) -> bool:
        return self.bounds.max_sequences is None or place.num_open < self.bounds.max_sequences

    def _crowd(self, place: _Place) -> tuple[bool, int]:
        """The smallest value wins: among streams with few sequences, the fullest; otherwise the emptiest. With several
        connections a stream has few of them sooner: what the others' servers could do is worth more than a frame."""
        num_open = place.num_open
        return (True, num_open) if num_open * self._spread.num_connections >= FEW else (False, -num_open)
