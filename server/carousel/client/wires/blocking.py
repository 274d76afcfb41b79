"""The blocking client's wire, over grpc. It implements `_sync/wire.py`; `aio` is its twin."""

import queue
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypedDict

import grpc

from carousel.client.core.calls import Call
from carousel.client.core.connection import Connection
from carousel.client.core.errors import ServerError, closed, ended_early, read_error
from carousel.client.core.options import CallOptions
from carousel.client.core.spread import Spread
from carousel.client.core.stubs import STUBS, MakeStub

Sleep = Callable[[float], None]
sleep: Sleep = time.sleep


class WireOptions(TypedDict):
    """The options that only the blocking client has: none."""


class GrpcWire:
    """A wire that threads may share; any thread may close it at any time."""

    def __init__(self, connection: Connection, *, stubs: Iterable[MakeStub] = STUBS) -> None:
        self._connection = connection
        self._spread = Spread(connection.num_connections)
        self._channels = [_open_channel(connection) for _ in range(connection.num_connections)]
        self._stubs = [{make: make(channel) for make in stubs} for channel in self._channels]
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True
        for channel in self._channels:
            channel.close()

    def ask(self, call: Call[Any], options: CallOptions) -> Any:
        try:
            return self._start(call, options, call.request)
        except grpc.RpcError as error:
            raise self._explain(error) from error

    def stream(self, call: Call[Any], options: CallOptions) -> "_Answers":
        return _Answers(self._start(call, options, call.request), self._explain)

    def line(self, call: Call[Any], options: CallOptions) -> "_Line":
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        started = self._start(call, options, iter(requests.get, None))
        end = partial(requests.put, None)
        if not started.add_callback(end):  # it has already ended
            end()
        return _Line(requests, _Answers(started, self._explain))

    def _start(self, call: Call[Any], options: CallOptions, request: Any) -> Any:
        """Returns the library's own answer: a message, or an iterator of messages."""
        arguments = self._connection.arguments(call, options)
        if self._is_closed:
            raise closed()
        try:
            stubs = self._stubs[self._spread.choose(call.session_id)]
            return getattr(stubs[call.stub], call.method)(request, **arguments)
        except ValueError:
            if self._is_closed:  # another thread has closed it since
                raise closed() from None
            raise

    def _explain(self, error: Any) -> ServerError:
        """Returns the ServerError of a failed call; this side or the connection cancels a cancelled call."""
        return read_error(error, self._connection.address, is_ours=self._is_closed or error.cancelled())


def _open_channel(connection: Connection) -> Any:
    if connection.credentials:
        return grpc.secure_channel(connection.address, connection.credentials, connection.channel_options)
    return grpc.insecure_channel(connection.address, connection.channel_options)


class _Answers:
    def __init__(self, call: Any, explain: Callable[[Any], ServerError]) -> None:
        """`explain` reads a failed call's error."""
        self._call = call
        self._explain = explain

    def read(self) -> Any:
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise self._explain(error) from error
        except KeyboardInterrupt:
            self._call.cancel()
            raise

    def wait_until_open(self) -> None:
        self._call.initial_metadata()

    def cancel(self) -> None:
        self._call.cancel()


class _Line:
    def __init__(self, requests: queue.SimpleQueue[Any], answers: _Answers) -> None:
        """A thread of the library reads `requests` until it finds None, which the end of the call adds."""
        self._requests = requests
        self._answers = answers
        self.is_over = False

    def exchange(self, request: Any) -> Any:
        self._requests.put(request)
        try:
            message = self._answers.read()
            if message is None:
                raise ended_early()
        except BaseException:
            self.drop()
            raise
        return message

    def end(self, *, is_orderly: bool) -> None:
        self.is_over = True
        self._requests.put(None)
        if is_orderly:
            with suppress(ServerError):
                self._answers.read()
        self._answers.cancel()

    def drop(self) -> None:
        self.end(is_orderly=False)
