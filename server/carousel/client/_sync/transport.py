# Generated from server/carousel/client/_async/transport.py by `make client`: change that file, not this one.
"""How calls are made: once, or with retries where that is safe. Knows neither their content nor sessions."""

from typing import TypeVar

from carousel.client._sync.repeat import Repeat
from carousel.client._sync.streams import Stream, TurnStream
from carousel.client._sync.wire import Line, Wire
from carousel.client.core.calls import Call
from carousel.client.core.connection import Connection
from carousel.client.core.errors import ServerError
from carousel.client.core.options import CallOptions
from carousel.client.core.results import Prediction
from carousel.client.core.retries import Attempts, Retries
from carousel.client.core.session_turns import SafeTurn
from carousel.client.wires.blocking import Sleep

Answer = TypeVar("Answer")


class Transport:
    """A wire, and what all calls over it have in common."""

    def __init__(self, wire: Wire, connection: Connection, retries: Retries, sleep: Sleep) -> None:
        self._wire = wire
        self._connection = connection
        self._retries = retries
        self._sleep = sleep

    def close(self) -> None:
        self._wire.close()

    def ask(self, call: Call[Answer], options: CallOptions) -> Answer:
        return call.parse(self._wire.ask(call, options))

    def ask_safely(self, call: Call[Answer], options: CallOptions) -> Answer:
        """Retries while that may help. Only for calls that are safe to make twice."""
        repeat = self.repeat(options)
        while True:
            try:
                return self.ask(call, repeat.options)
            except ServerError as error:
                repeat.pause_after(error)

    def stream(self, call: Call[Answer], options: CallOptions) -> Stream[Answer]:
        return Stream(self._wire.stream(call, options), call.parse)

    def follow(self, turn: SafeTurn[Answer], options: CallOptions) -> Stream[Answer]:
        try:
            return TurnStream(turn, self.repeat(options), lambda left: self._wire.stream(turn.call, left))
        except BaseException:
            turn.withdraw()
            raise

    def line(self, call: Call[Prediction], options: CallOptions) -> Line:
        """Returns a line for a predictor's requests."""
        return self._wire.line(call, options)

    def repeat(self, options: CallOptions) -> Repeat:
        return Repeat(Attempts(self._retries, self._connection.timeout(options)), options, self._sleep)
