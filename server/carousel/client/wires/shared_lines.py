"""A line of the asyncio client that shares a stream: one sequence, and where it continues when it cannot stay."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from carousel.client.core.calls import Call
from carousel.client.core.errors import ServerError, ServerUnreachable, again, cancelled, expired, too_large
from carousel.client.core.options import CallOptions
from carousel.client.core.retries import is_refused_for_load
from carousel.client.wires.shared_places import MAX_FRAME_BYTES, Seat, SharedPlaces
from carousel.client.wires.shared_stream import ITEM_BYTES

_MAX_MOVES = 2  # of one request, each after the server has reported its limits
_MAX_SEQUENCES = "max_sequences_per_stream"


class SharedLine:
    """A line that takes its seat with its first request, and leaves it when it ends, fails or is dropped."""

    def __init__(
        self,
        places: SharedPlaces,
        make_own: Callable[[Call[Any], CallOptions], Any],
        call: Call[Any],
        options: CallOptions,
        timeout_seconds: float | None,
    ) -> None:
        """`make_own` makes a line with its own stream. The timeout starts here, as that of a call."""
        self._seat: Seat | None = None
        self._places = places
        self._make_own = make_own
        self._call = call
        self._options = options
        self._ends_at = None if timeout_seconds is None else asyncio.get_running_loop().time() + timeout_seconds
        self._num_moves = 0
        self._is_answered = False  # at least once: the server may hold state for it
        self._own: Any = None  # the line that replaces this one where it cannot share
        self._failure: ServerError | None = None

    @property
    def is_over(self) -> bool:
        return self._failure is not None if self._own is None else bool(self._own.is_over)

    async def exchange(self, request: Any) -> Any:
        if self._own is not None:
            return await self._own.exchange(request)
        if self._failure is not None:
            raise again(self._failure)
        try:
            return await self._ask(request)
        except ServerError as error:
            if self._own is None and not (is_refused_for_load(error) and self._is_carried):
                self._give_up(error)
            raise
        except BaseException:
            self._give_up(cancelled())
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
        """The line was dropped without an end. Any thread may collect it."""
        if self._seat is not None:
            with suppress(RuntimeError):  # the event loop is closed, and so is the stream
                self._seat.stream.loop.call_soon_threadsafe(self._places.leave_seat, self._seat)

    @property
    def _is_carried(self) -> bool:
        """Whether the line has a seat on a stream that has not failed."""
        return self._seat is not None and self._seat.stream.failure is None

    async def _ask(self, request: Any) -> Any:
        num_bytes = request.ByteSize()
        self._num_moves = 0
        while self._places.is_of_use or self._is_answered:
            if num_bytes + ITEM_BYTES > self._places.bounds.max_frame_bytes:
                if self._call.session_id or not self._is_answered:
                    break
                await self._check_size(num_bytes)
            seat = self._find_seat()
            try:
                answer = await seat.stream.ask(seat.sequence, request, num_bytes, self._ends_at)
            except ServerError as error:
                if not await self._may_move(seat, error, num_bytes):
                    raise
                self._leave()
                self._num_moves += 1
            else:
                self._is_answered = True
                return answer
        return await self._go_own_way(request)

    async def _may_move(self, seat: Seat, error: ServerError, num_bytes: int) -> bool:
        """Returns whether the request was not done here and is safe to send elsewhere. Raises ServerUnreachable when
        another request made the stream fail."""
        is_first = not self._is_answered and self._num_moves < _MAX_MOVES
        if error.code == "UNIMPLEMENTED" and not error.reason:
            self._places.is_of_use = False
            return not self._is_answered
        if error.reason == "SHUTTING_DOWN":
            self._places.leave_stream(seat)
        elif error.details.get("limit") == _MAX_SEQUENCES:
            await self._places.learn(seat, self._ends_at)
            return is_first
        elif seat.stream.is_cut:
            await self._places.learn(seat, self._ends_at)
            limit = self._places.bounds.max_message_bytes or MAX_FRAME_BYTES
            is_others = limit < seat.stream.largest_frame or seat.stream.is_end_unknown
            if is_others and num_bytes + ITEM_BYTES <= limit:
                if is_first and not self._call.session_id:  # the server keeps nothing, and nothing else retries
                    return True
                raise ServerUnreachable(self._places.address, str(error)) from error
        return False

    async def _check_size(self, num_bytes: int) -> None:
        """Checks a request that has to stay. A request that is too large for the server would end the stream for
        all."""
        if self._places.bounds.max_message_bytes is None:
            await self._places.learn(self._find_seat(), self._ends_at)
        limit = self._places.bounds.max_message_bytes
        if limit is not None and num_bytes + ITEM_BYTES > limit:
            raise too_large(num_bytes, limit)

    async def _go_own_way(self, request: Any) -> Any:
        self._leave()
        self._own = self._make_own(self._call, self._left())
        return await self._own.exchange(request)

    def _find_seat(self) -> Seat:
        if self._ends_at is not None and asyncio.get_running_loop().time() >= self._ends_at:
            raise expired()
        if self._seat is None:
            self._seat = self._places.assign_seat(self._call.session_id)
        return self._seat

    def _left(self) -> CallOptions:
        if self._ends_at is None:
            return self._options
        seconds = max(0.0, self._ends_at - asyncio.get_running_loop().time())
        return CallOptions(**self._options | {"timeout_seconds": seconds})

    def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            self._places.leave_seat(seat)

    def _give_up(self, failure: ServerError) -> None:
        self._leave()
        self._failure = self._failure or failure
