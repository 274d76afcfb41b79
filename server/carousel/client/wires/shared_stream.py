"""One PredictMany stream of the asyncio client: requests of many sequences go out in frames, their answers come back.

A stream has two tasks for all its sequences. The writer puts all waiting requests into its next frame, so that the
requests of one tick of the event loop travel together. The reader delivers a frame's answers in one pass. When either
task ends, the stream has ended.
"""

import asyncio
from contextlib import suppress
from typing import Any

import grpc.aio

from carousel.client.core.errors import (
    ServerError,
    ServerUnreachable,
    again,
    broken_here,
    cancelled,
    closed,
    ended_early,
    expired,
    read_status,
)
from carousel.client.wires.aio_messages import is_hidden, read, write
from carousel.v1 import language_model_pb2 as wire

_MAX_ITEMS = 1024  # per frame
ITEM_BYTES = 32  # an item's largest size beside its request
_END_SECONDS = 1.0  # for a server to end a stream without open requests


class Sequence:
    """One tag of a stream. `answer` is set while a request is open."""

    __slots__ = ("answer", "is_known", "num_bytes", "tag")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.answer: asyncio.Future[Any] | None = None
        self.num_bytes = 0  # of the request
        self.is_known = False  # the server has seen the tag


class SharedStream:
    """One stream and its sequences. `failure` is the error that ended the stream. A stream that `is_leaving` begins
    nothing new, and ends with its last sequence. `largest_frame` is the largest frame sent, in bytes."""

    def __init__(self, call: Any, address: str, max_frame_bytes: int) -> None:
        """`call` has just been started on the running event loop. A request above `max_frame_bytes` has its own
        frame."""
        self._call = call
        self._address = address
        self.max_frame_bytes = max_frame_bytes
        self.loop = asyncio.get_running_loop()
        self.failure: ServerError | None = None
        self.largest_frame = 0
        self.is_leaving = False
        self._is_closed = False  # on this side
        self._sequences: dict[int, Sequence] = {}
        self._last_tag = 0
        self._waiting: dict[int, Any] = {}  # what goes out next: a tag's request, or None for its end
        self._rest: asyncio.Future[None] | None = None  # the writer's pause
        self._tasks = (asyncio.create_task(self._read_on()), asyncio.create_task(self._write_on()))
        for task in self._tasks:
            task.add_done_callback(self._note_end)

    def __repr__(self) -> str:
        return f"SharedStream({len(self._sequences)} sequences, {len(self._waiting)} items waiting)"

    @property
    def num_open(self) -> int:
        return len(self._sequences)

    @property
    def is_cut(self) -> bool:
        """Whether the failure may come from a message that is too large: a missing resource, or an unknown reason."""
        if self.failure is None or self.failure.reason:
            return False
        return self.failure.code == "RESOURCE_EXHAUSTED" or self.is_end_unknown

    @property
    def is_end_unknown(self) -> bool:
        """Whether grpc.aio hides how the stream ended."""
        return self.failure is not None and is_hidden(self.failure)

    def begin(self) -> Sequence:
        self._last_tag += 1
        sequence = self._sequences[self._last_tag] = Sequence(self._last_tag)
        return sequence

    def ask(self, sequence: Sequence, request: Any, num_bytes: int, ends_at: float | None) -> asyncio.Future[Any]:
        """Returns a future of the answer or the refusal. `ends_at` is in the event loop's time. Raises ServerError when
        the stream has ended."""
        if sequence.answer is not None:
            raise RuntimeError("a sequence takes one request at a time")
        if self.failure is not None:
            raise again(self.failure)
        sequence.num_bytes = num_bytes
        answer = sequence.answer = self.loop.create_future()
        self._send(sequence.tag, request)
        if ends_at is not None:
            timer = self.loop.call_at(ends_at, _expire, answer)
            answer.add_done_callback(lambda _: timer.cancel())
        return answer

    def close(self, sequence: Sequence) -> None:
        """Ends the sequence. A caller that still waits for an answer gets CANCELLED."""
        if self._sequences.pop(sequence.tag, None) is None:
            return
        if sequence.answer is not None and not sequence.answer.done():
            sequence.answer.set_exception(cancelled())
        self._waiting.pop(sequence.tag, None)
        if sequence.is_known and self.failure is None:
            self._send(sequence.tag, None)
        if self.is_leaving and not self._sequences:
            self._wake()

    def leave(self) -> None:
        """The server behind the stream is shutting down."""
        self.is_leaving = True
        if not self._sequences:
            self._wake()

    def abandon(self, failure: ServerError) -> None:
        """Ends the stream at once, for all its sequences; the first failure stays."""
        if self.failure is not None:
            return
        self.failure = failure
        for sequence in self._sequences.values():
            answer, sequence.answer = sequence.answer, None
            if answer is not None and not answer.done():
                answer.set_exception(again(failure))
        self._waiting.clear()
        self._call.cancel()
        for task in self._tasks:
            task.cancel()

    async def end(self) -> None:
        """The client is closed. Nothing waits for answers that are still due."""
        self._is_closed = True
        try:
            if all(one.answer is None for one in self._sequences.values()):
                for sequence in list(self._sequences.values()):
                    self.close(sequence)
                self.leave()
                await asyncio.wait(self._tasks, timeout=_END_SECONDS)
        finally:
            self.abandon(closed())
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, tag: int, request: Any) -> None:
        self._waiting[tag] = request
        if self._rest is not None:
            self._wake()

    def _wake(self) -> None:
        rest, self._rest = self._rest, None
        if rest is not None and not rest.done():
            rest.set_result(None)

    async def _write_on(self) -> None:
        while True:
            if self._waiting:
                await write(self._call, self._next_frame(), self._address)
            elif self.is_leaving and not self._sequences:
                return await self._finish()
            else:
                self._rest = self.loop.create_future()
                await self._rest

    async def _finish(self) -> None:
        with suppress(asyncio.InvalidStateError, grpc.RpcError):  # it has already ended; the reader reports how
            await self._call.done_writing()

    def _next_frame(self) -> Any:
        """Returns a frame of waiting requests, at least the first one."""
        frame = wire.PredictManyRequest()
        add, num_items, num_bytes = frame.items.add, 0, 0
        for tag, request in self._waiting.items():
            sequence = None if request is None else self._sequences[tag]
            more = ITEM_BYTES + (0 if sequence is None else sequence.num_bytes)
            if num_items and (num_items == _MAX_ITEMS or num_bytes + more > self.max_frame_bytes):
                break
            num_items += 1
            num_bytes += more
            if sequence is None:
                add(tag=tag, close=True)
            else:
                sequence.is_known = True
                add(tag=tag).request.CopyFrom(request)
        self.largest_frame = max(self.largest_frame, num_bytes)
        if num_items == len(self._waiting):
            self._waiting.clear()
        else:
            for item in frame.items:
                del self._waiting[item.tag]
        return frame

    async def _read_on(self) -> None:
        while (frame := await read(self._call, self._address)) is not None:
            self._deliver(frame)
        raise closed() if self._is_closed else ended_early()

    def _deliver(self, frame: Any) -> None:
        """Delivers the answers of a frame. Raises ServerUnreachable for an answer without a request: such a peer cannot
        be understood any more."""
        for item in frame.items:
            sequence = self._sequences.get(item.tag)
            if sequence is None:
                if 0 < item.tag <= self._last_tag:
                    continue  # closed, but the server did not know yet
                raise self._misunderstood()
            answer, kind = sequence.answer, item.WhichOneof("outcome")
            if answer is None or kind is None:
                raise self._misunderstood()
            sequence.answer = None
            if answer.done():  # its caller is gone and about to close the sequence
                continue
            if kind == "response":
                answer.set_result(item.response)
            else:
                answer.set_exception(read_status(item.status, self._address))

    def _misunderstood(self) -> ServerError:
        return ServerUnreachable(self._address, "it sends an answer without a request")

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Handles the end of the reader or the writer. After a writer's normal end, the reader decides how the stream
        ended."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self.abandon(cancelled())
        elif error is not None:
            self.abandon(error if isinstance(error, ServerError) else broken_here(error))


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(expired())
