"""PredictMany of the fake server: each tag is a Predict stream of it, answered in frames of one item.

A bare code is a broken connection of the whole stream: it ends when every request has its answer or error.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from carousel.errors import Overloaded
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm

TOO_MANY = Overloaded("sequences are open", limit="max_sequences_per_stream", retry_seconds=1.0)
_END = object()  # among answers: the stream's


class Carried:
    """What a stream or a tag without a session carries: how much it was fed."""

    def __init__(self) -> None:
        self.position = 0


Predict = Callable[[Iterator[Any], Any, Carried], Iterator[Any]]


class Refused(Exception):
    """The status with which a separate call would have been aborted."""


class _Tag:
    """One sequence: its requests, and its own side of the stream's context."""

    def __init__(self, context: Any) -> None:
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.invocation_metadata = context.invocation_metadata
        self.is_over = False
        self.carried = Carried()  # a refusal leaves it as it is
        self._at_end: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[Any]:
        while (request := self.requests.get()) is not None:
            yield request
        self.is_over = True

    def close(self) -> None:
        self.requests.put(None)
        for do in self._at_end:
            do()

    def add_callback(self, do: Callable[[], None]) -> None:
        self._at_end.append(do)

    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise Refused(code, text)

    def abort_with_status(self, status: Any) -> None:
        raise Refused(dict(status.trailing_metadata)["grpc-status-details-bin"])


class FakeMany:
    """One stream."""

    def __init__(self, predict: Predict, max_sequences: int, context: Any) -> None:
        self._predict = predict
        self._max_sequences = max_sequences
        self._context = context
        self._tags: dict[int, _Tag] = {}
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()  # None: something has changed
        self._num_due = 0
        self._is_read = False
        self._is_ended = False
        self._broken: Refused | None = None

    def run(self, frames: Iterator[Any]) -> Iterator[Any]:
        self._context.add_callback(self._end)
        _start(self._read, frames)
        while not self._is_ended and (self._num_due or not self._is_read):
            if not self._num_due and self._broken is not None:
                self._context.abort(*self._broken.args)
            if (item := self._answers.get()) is _END:
                return
            if item is not None:
                self._num_due -= 1
                if self._broken is None or item.WhichOneof("outcome"):
                    yield lm.PredictManyResponse(items=[item])

    def _end(self) -> None:
        self._is_ended = True
        for tag in list(self._tags.values()):
            tag.close()
        self._answers.put(None)

    def _read(self, frames: Iterator[Any]) -> None:
        with contextlib.suppress(Exception):  # the client has gone
            for frame in frames:
                num_due = sum(not item.close for item in frame.items)
                self._num_due += num_due  # all of them, before one breaks the stream
                for item in frame.items:
                    self._take(item)
        self._is_read = True
        self._answers.put(None)

    def _take(self, item: Any) -> None:
        if item.close:
            if (closed := self._tags.pop(item.tag, None)) is not None:
                closed.close()
            return
        if item.tag not in self._tags:
            if len(self._tags) >= self._max_sequences:
                self._answers.put(lm.PredictManyResponse.Item(tag=item.tag, status=to_status(TOO_MANY)))
                return
            self._tags[item.tag] = _Tag(self._context)
            _start(self._converse, item.tag, self._tags[item.tag])
        self._tags[item.tag].requests.put(item.request)

    def _converse(self, number: int, tag: _Tag) -> None:
        while True:
            try:
                for response in self._predict(iter(tag), tag, tag.carried):
                    self._answers.put(lm.PredictManyResponse.Item(tag=number, response=response))
                if not tag.is_over:
                    self._answers.put(_END)
                return
            except Refused as refused:
                item = lm.PredictManyResponse.Item(tag=number)
                if len(refused.args) == 1:
                    item.status.ParseFromString(refused.args[0])
                else:
                    self._broken = refused
                self._answers.put(item)


def _start(run: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=run, args=arguments, daemon=True).start()
