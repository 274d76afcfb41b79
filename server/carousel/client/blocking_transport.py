"""How the blocking client makes its calls and reads their answers: once, or again while that is safe.

It knows neither what the calls carry nor what a session is.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import grpc

from carousel.client.calls import Call, Connection
from carousel.client.errors import AnswerChanged, ServerError, ended_early, read_error
from carousel.client.options import CallOptions
from carousel.client.retries import Attempts, Retries
from carousel.client.session_turns import SafeTurn

Answer = TypeVar("Answer")


class Stream(Generic[Answer]):
    """Answers as they come. Closing it, or dropping it before its last answer, cancels the call."""

    def __init__(self, call: Any, parse: Callable[[Any], Answer], explain: Callable[[Any], ServerError]) -> None:
        """`explain` reads a failed call's error."""
        self._call = call
        self._parse = parse
        self._explain = explain

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        try:
            message = next(self._call)
        except grpc.RpcError as error:
            raise self._explain(error) from error
        except KeyboardInterrupt:
            self._call.cancel()
            raise
        return self._parse(message)

    def wait_until_open(self) -> Self:
        """Until the server has answered for the first time, or failed: reading tells which."""
        self._call.initial_metadata()
        return self

    def close(self) -> None:
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class TurnStream(Stream[Answer]):
    """The answers of a session's turn. When the stream breaks, it is asked for again and goes on where it stopped."""

    def __init__(self, turn: SafeTurn[Answer], repeat: "Repeat", start: Callable[[CallOptions], Any]) -> None:
        super().__init__(start(repeat.options), turn.call.parse, repeat.explain)
        self._turn = turn
        self._repeat = repeat
        self._start = start
        self._new: deque[Answer] = deque()  # read, and not yet handed on

    def __next__(self) -> Answer:
        try:
            return self._read_new()
        except KeyboardInterrupt:
            self.close()
            raise

    def _read_new(self) -> Answer:
        while not self._new:
            try:
                answer = self._read()
            except ServerError as error:
                self._begin_again(error)
            else:
                self._take(answer)
        return self._new.popleft()

    def _take(self, answer: Answer) -> None:
        try:
            self._new.extend(self._turn.take(answer))
        except AnswerChanged:
            self._call.cancel()
            raise
        if self._new:
            self._repeat.attempts.note_progress()

    def _read(self) -> Answer:
        try:
            return super().__next__()
        except StopIteration:
            if self._turn.is_done:
                raise
            raise ended_early() from None
        except ServerError:
            if self._turn.is_done:  # the last answer is here; how the connection ended is of no interest
                raise StopIteration from None
            raise

    def _begin_again(self, error: ServerError) -> None:
        try:
            if not self._turn.is_overtaken(error):
                self._repeat.pause_after(error)
        except ServerError:
            self._turn.fail(error)
            raise
        self._turn.restart()
        self._call = self._start(self._repeat.options)

    def close(self) -> None:
        """Before the last answer, whether the turn was applied is not known."""
        self._turn.give_up()
        super().close()


class Repeat:
    """The attempts at one call."""

    def __init__(
        self,
        attempts: Attempts,
        options: CallOptions,
        sleep: Callable[[float], None],
        explain: Callable[[Any], ServerError],
    ) -> None:
        self.attempts = attempts
        self.explain = explain
        self._options = options
        self._sleep = sleep

    @property
    def options(self) -> CallOptions:
        """The next attempt's."""
        return self.attempts.limit(self._options)

    def pause_after(self, error: ServerError) -> None:
        """Raises `error` when the call shall not be made again."""
        self._sleep(self.attempts.pause_after(error))


class Transport:
    """A channel, and what every call over it has in common."""

    def __init__(self, channel: Any, connection: Connection, retries: Retries, sleep: Callable[[float], None]) -> None:
        self._channel = channel
        self._connection = connection
        self._retries = retries
        self._sleep = sleep
        self._is_closed = False

    def close(self) -> None:
        """Cancels the calls that are still open."""
        self._is_closed = True
        self._channel.close()

    def explain(self, error: Any) -> ServerError:
        """What the failed call's error means; a cancelled call is this side's doing or the connection's."""
        return read_error(error, self._connection.address, is_ours=self._is_closed or error.cancelled())

    def ask(self, call: Call[Answer], options: CallOptions) -> Answer:
        try:
            return call.parse(self._start(call, options, call.request))
        except grpc.RpcError as error:
            raise self.explain(error) from error

    def ask_safely(self, call: Call[Answer], options: CallOptions) -> Answer:
        """Again while that may help. For calls that do no harm when they are made twice."""
        repeat = self.repeat(options)
        while True:
            try:
                return self.ask(call, repeat.options)
            except ServerError as error:
                repeat.pause_after(error)

    def stream(self, call: Call[Answer], options: CallOptions, requests: Any = None) -> Stream[Answer]:
        """`requests` is what the caller streams, if he does."""
        return Stream(self._start(call, options, requests or call.request), call.parse, self.explain)

    def follow(self, turn: SafeTurn[Answer], options: CallOptions) -> TurnStream[Answer]:
        return TurnStream(turn, self.repeat(options), lambda left: self._start(turn.call, left, turn.call.request))

    def repeat(self, options: CallOptions) -> Repeat:
        attempts = Attempts(self._retries, self._connection.timeout(options))
        return Repeat(attempts, options, self._sleep, self.explain)

    def _start(self, call: Call[Any], options: CallOptions, request: Any) -> Any:
        method = getattr(call.stub(self._channel), call.method)
        return method(request, **self._connection.arguments(call, options))
