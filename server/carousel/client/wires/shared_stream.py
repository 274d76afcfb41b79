"""One PredictMany stream of the asyncio client: questions of many sequences go out in frames, their answers come back.

It has two tasks, whatever it carries. The writer puts all that was asked meanwhile into its next frame, so that
questions of one tick of the event loop travel together; the reader hands a frame's answers out in one pass.
"""

import asyncio
from contextlib import suppress
from typing import Any

import grpc.aio

from carousel.client.core.errors import (
    ServerError,
    ServerUnreachable,
    again,
    cancelled,
    ended_early,
    expired,
    read_status,
)
from carousel.client.wires.aio_messages import read, write
from carousel.v1 import language_model_pb2 as wire

_MAX_ITEMS, _MAX_BYTES = 1024, 512 * 1024  # of a frame; a larger question has one for itself
LARGE_BYTES = 64 * 1024  # of a question that the server may refuse to read at all, and with it the stream
_END_SECONDS = 1.0  # that a server has to end a stream on which nothing is due


class Sequence:
    """A tag of a stream. `answer` is due while a question is out."""

    __slots__ = ("answer", "is_known", "num_bytes", "tag")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.answer: asyncio.Future[Any] | None = None
        self.num_bytes = 0  # of the question
        self.is_known = False  # the server has seen the tag


class SharedStream:
    """`failure` is what the stream has ended with. A stream that `is_leaving` begins nothing new, and ends
    with its last sequence."""

    def __init__(self, call: Any, address: str) -> None:
        """`call` has just been started, on the event loop that runs."""
        self._call = call
        self._address = address
        self.loop = asyncio.get_running_loop()
        self.failure: ServerError | None = None
        self.is_leaving = False
        self._is_cut = False  # by a question that was too large
        self._sequences: dict[int, Sequence] = {}
        self._last_tag = 0
        self._waiting: dict[int, Any] = {}  # what goes out next: a tag's question, or None for its end
        self._rest: asyncio.Future[None] | None = None  # the writer's
        self._tasks = (asyncio.create_task(self._read_on()), asyncio.create_task(self._write_on()))

    def __repr__(self) -> str:
        return f"SharedStream({len(self._sequences)} sequences, {len(self._waiting)} items waiting)"

    @property
    def num_open(self) -> int:
        return len(self._sequences)

    def begin(self) -> Sequence:
        self._last_tag += 1
        sequence = self._sequences[self._last_tag] = Sequence(self._last_tag)
        return sequence

    async def ask(self, sequence: Sequence, request: Any, num_bytes: int, ends_at: float | None) -> Any:
        """The answer, or what the question is refused with. `ends_at` is in the event loop's time."""
        if sequence.answer is not None:
            raise RuntimeError("a predictor is asked one question at a time")
        sequence.num_bytes = num_bytes
        if self.failure is not None:
            raise self._failure_of(sequence)
        answer = sequence.answer = self.loop.create_future()
        self._send(sequence.tag, request)
        if ends_at is None:
            return await answer
        timer = self.loop.call_at(ends_at, _expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    def close(self, sequence: Sequence) -> None:
        """The sequence is over. Whoever still waits for an answer is told so."""
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
        """The server behind it is going."""
        self.is_leaving = True
        if not self._sequences:
            self._wake()

    async def end(self) -> None:
        """Where an answer is due, nobody waits for it."""
        if all(one.answer is None for one in self._sequences.values()):
            for sequence in list(self._sequences.values()):
                self.close(sequence)
            self.leave()
            await asyncio.wait(self._tasks, timeout=_END_SECONDS)
        self._fail(cancelled())
        self._call.cancel()
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
        try:
            while self.failure is None:
                if self._waiting:
                    await write(self._call, self._next_frame(), self._address)
                elif self.is_leaving and not self._sequences:
                    return await self._finish()
                else:
                    self._rest = self.loop.create_future()
                    await self._rest
        except ServerError as error:
            self._fail(error)
            self._call.cancel()

    async def _finish(self) -> None:
        with suppress(asyncio.InvalidStateError, grpc.RpcError):  # it has ended already, and the reader says how
            await self._call.done_writing()

    def _next_frame(self) -> Any:
        """What waits, the first of it at least."""
        frame = wire.PredictManyRequest()
        add, num_items, num_bytes = frame.items.add, 0, 0
        for tag, request in self._waiting.items():
            if request is not None:
                sequence = self._sequences[tag]
                num_bytes += sequence.num_bytes
            if num_items and (num_items == _MAX_ITEMS or num_bytes > _MAX_BYTES):
                break
            num_items += 1
            if request is None:
                add(tag=tag, close=True)
            else:
                sequence.is_known = True
                add(tag=tag).request.CopyFrom(request)
        if num_items == len(self._waiting):
            self._waiting.clear()
        else:
            for item in frame.items:
                del self._waiting[item.tag]
        return frame

    async def _read_on(self) -> None:
        failure = cancelled()
        try:
            while (frame := await read(self._call, self._address)) is not None:
                self._take(frame)
            failure = ended_early()
        except ServerError as error:
            failure = error
        finally:
            self._fail(failure)
            self._call.cancel()

    def _take(self, frame: Any) -> None:
        """Raises ServerUnreachable for what nobody asked: the peer cannot be understood, whatever it sends next."""
        for item in frame.items:
            sequence = self._sequences.get(item.tag)
            if sequence is None:
                if 0 < item.tag <= self._last_tag:
                    continue  # it is closed, and the server did not know yet
                raise self._misunderstood()
            answer, kind = sequence.answer, item.WhichOneof("outcome")
            if answer is None or kind is None:
                raise self._misunderstood()
            sequence.answer = None
            if answer.done():  # its asker is gone, and about to say so
                continue
            if kind == "response":
                answer.set_result(item.response)
            else:
                answer.set_exception(read_status(item.status, self._address))

    def _misunderstood(self) -> ServerError:
        return ServerUnreachable(self._address, "what it sends answers no question")

    def _fail(self, failure: ServerError) -> None:
        """Ends everything; the first to say so says why."""
        if self.failure is not None:
            return
        self.failure = failure
        is_too_large = failure.code == "RESOURCE_EXHAUSTED" and not failure.reason
        self._is_cut = is_too_large and any(one.num_bytes > LARGE_BYTES for one in self._sequences.values())
        for sequence in self._sequences.values():
            if sequence.answer is not None and not sequence.answer.done():
                sequence.answer.set_exception(self._failure_of(sequence))
        self._waiting.clear()
        self._wake()

    def _failure_of(self, sequence: Sequence) -> ServerError:
        """A message too large to be read ends the stream for all others too: for them, it broke."""
        assert self.failure is not None
        if self._is_cut and sequence.num_bytes <= LARGE_BYTES:
            return ServerUnreachable(self._address, str(self.failure))
        return again(self.failure)


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(expired())
