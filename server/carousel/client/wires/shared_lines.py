"""Lines of the asyncio client that share a few streams: which stream a sequence lives on, and what happens around it.

A place is a name to balance by and the stream that is open under it. All calls on the sessions of a place go under its
name, so that a balancer brings them to the server that holds these sessions.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from carousel.client.core.calls import Call
from carousel.client.core.connection import Connection
from carousel.client.core.errors import ServerError, again, cancelled, expired
from carousel.client.core.options import CallOptions
from carousel.client.wires.shared_stream import LARGE_BYTES, Sequence, SharedStream

_NUM_PLACES = 2  # so that client and server overlap
_MAX_HOMES = 65_536  # sessions whose place is remembered
_BOUND = "max_sequences_per_stream"


class _Place:
    def __init__(self) -> None:
        self.name = secrets.token_hex(16)
        self.stream: SharedStream | None = None

    @property
    def num_open(self) -> int:
        return self.stream.num_open if self.is_usable and self.stream is not None else 0

    @property
    def is_usable(self) -> bool:
        return self.stream is not None and self.stream.failure is None and not self.stream.is_leaving


class SharedLines:
    """Of one client. `is_of_use` until a server says that it knows no such streams; then every line has its own."""

    def __init__(
        self,
        start: Callable[[str], Any],
        make_own: Callable[[Call[Any], CallOptions], Any],
        connection: Connection,
    ) -> None:
        """`start` starts a stream under a name; `make_own` makes a line with a stream of its own."""
        self._start = start
        self.make_own = make_own
        self._connection = connection
        self._places = [_Place() for _ in range(_NUM_PLACES)]
        self._homes: dict[str, _Place] = {}  # by session, the one placed last in the end
        self._streams: set[SharedStream] = set()  # all that have not failed, those that are left too
        self._max_sequences: int | None = None  # of one stream, once a server has said so
        self._is_closed = False
        self.is_of_use = True

    def line(self, call: Call[Any], options: CallOptions) -> "SharedLine":
        """Raises TypeError for an unknown option."""
        self._connection.arguments(call, options)
        return SharedLine(self, call, options, self._connection.timeout(options))

    def home(self, session_id: str) -> str:
        """The name under which calls on the session go; empty when it has no place here."""
        place = self._homes.get(session_id) if self.is_of_use else None
        return "" if place is None else place.name

    def place(self, session_id: str) -> SharedStream:
        """A stream with room, opened if need be: the session's own, or the one with the least on it."""
        if self._is_closed:
            raise cancelled()
        place = self._homes.pop(session_id, None)
        if place is None or not self._has_room(place):
            place = min(self._places, key=lambda one: one.num_open)
            if not self._has_room(place):
                self._places.append(place := _Place())
        if session_id:
            self._remember(session_id, place)
        if place.stream is None or not place.is_usable:
            place.stream = SharedStream(self._start(place.name), self._connection.address)
            self._streams = {one for one in self._streams if one.failure is None} | {place.stream}
        return place.stream

    def learn(self, stream: SharedStream, error: ServerError) -> bool:
        """From what a sequence was refused with. Whether it can be asked for elsewhere: it never began here."""
        if error.code == "UNIMPLEMENTED" and not error.reason:
            self.is_of_use = False
            return True
        if error.reason == "SHUTTING_DOWN":
            stream.leave()
        if error.details.get("limit") != _BOUND or stream.num_open <= 1:
            return False
        self._max_sequences = min(self._max_sequences or stream.num_open, stream.num_open - 1)
        return True

    async def close(self) -> None:
        """What is due is answered no more; streams on which nothing is end in order."""
        self._is_closed = True
        await asyncio.gather(*(stream.end() for stream in self._streams))

    def _has_room(self, place: _Place) -> bool:
        return self._max_sequences is None or place.num_open < self._max_sequences

    def _remember(self, session_id: str, place: _Place) -> None:
        self._homes[session_id] = place
        if len(self._homes) > _MAX_HOMES:
            del self._homes[next(iter(self._homes))]


class SharedLine:
    """One sequence. It takes its place with its first question, and leaves it when it ends, fails or is dropped."""

    def __init__(
        self, lines: SharedLines, call: Call[Any], options: CallOptions, timeout_seconds: float | None
    ) -> None:
        """The time runs from here, as a call's."""
        self._stream: SharedStream | None = None
        self._sequence: Sequence | None = None
        self._lines = lines
        self._call = call
        self._options = options
        self._ends_at = None if timeout_seconds is None else asyncio.get_running_loop().time() + timeout_seconds
        self._is_answered = False  # once at least: the server may carry something for it
        self._own: Any = None  # the line that it goes on with where it cannot share
        self._failure: ServerError | None = None

    async def exchange(self, request: Any) -> Any:
        if self._own is not None:
            return await self._own.exchange(request)
        if self._failure is not None:
            raise again(self._failure)
        try:
            return await self._ask(request)
        except BaseException as error:
            self._give_up(error if isinstance(error, ServerError) else cancelled())
            raise

    async def end(self, *, is_orderly: bool) -> None:
        if self._own is not None:
            await self._own.end(is_orderly=is_orderly)
        self._give_up(cancelled())

    def drop(self) -> None:
        if self._own is not None:
            self._own.drop()
        self._give_up(cancelled())

    def __del__(self) -> None:
        """Nobody has ended it. Which thread collects it is not known."""
        if self._sequence is not None and self._stream is not None:
            with suppress(RuntimeError):  # the event loop is closed, and so is the stream
                self._stream.loop.call_soon_threadsafe(self._stream.close, self._sequence)

    async def _ask(self, request: Any) -> Any:
        num_bytes = request.ByteSize()
        is_carried = self._is_answered and not self._call.session_id
        if num_bytes > LARGE_BYTES and not is_carried:
            return await self._go_own_way(request)
        while self._lines.is_of_use or self._is_answered:
            stream, sequence = self._take_place()
            try:
                answer = await stream.ask(sequence, request, num_bytes, self._ends_at)
            except ServerError as error:
                if not self._lines.learn(stream, error) or self._is_answered:
                    raise
                self._leave()
            else:
                self._is_answered = True
                return answer
        return await self._go_own_way(request)

    async def _go_own_way(self, request: Any) -> Any:
        self._leave()
        self._own = self._lines.make_own(self._call, self._left())
        return await self._own.exchange(request)

    def _take_place(self) -> tuple[SharedStream, Sequence]:
        if self._ends_at is not None and asyncio.get_running_loop().time() >= self._ends_at:
            raise expired()
        if self._stream is None or self._sequence is None:
            self._stream = self._lines.place(self._call.session_id)
            self._sequence = self._stream.begin()
        return self._stream, self._sequence

    def _left(self) -> CallOptions:
        if self._ends_at is None:
            return self._options
        seconds = max(0.0, self._ends_at - asyncio.get_running_loop().time())
        return CallOptions(**self._options | {"timeout_seconds": seconds})

    def _leave(self) -> None:
        if self._stream is not None and self._sequence is not None:
            self._stream.close(self._sequence)
        self._stream = self._sequence = None

    def _give_up(self, failure: ServerError) -> None:
        self._leave()
        self._failure = failure
