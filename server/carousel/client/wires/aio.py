"""The asyncio client's wire, over grpc.aio. It implements `_async/wire.py`; `blocking` is its twin."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypedDict

import grpc
import grpc.aio

from carousel.client.core import calls
from carousel.client.core.calls import Call
from carousel.client.core.connection import Connection
from carousel.client.core.errors import ServerError, again, cancelled, closed, ended_early
from carousel.client.core.options import CallOptions
from carousel.client.core.spread import Spread
from carousel.client.core.stubs import STUBS, MakeStub
from carousel.client.wires.aio_messages import note_failure, read, receive, write, write_first
from carousel.client.wires.shared_lines import SharedLine
from carousel.client.wires.shared_places import SharedPlaces

Sleep = Callable[[float], Awaitable[None]]
sleep: Sleep = asyncio.sleep
_LIMITS_SECONDS = 5.0  # for a server to report its limits


class WireOptions(TypedDict, total=False):
    """The options that only the asyncio client has.

    `shares_streams` is True by default: a few streams together carry the requests of all predictors. Predictors with
    metadata have their own streams. So have all predictors when the server does not support sharing.
    """

    shares_streams: bool


class GrpcWire:
    """A wire of the event loop that runs when it is created."""

    def __init__(
        self, connection: Connection, *, shares_streams: bool = True, stubs: Iterable[MakeStub] = STUBS
    ) -> None:
        self._connection = connection
        self._spread = Spread(connection.num_connections)
        self._channels = [_open_channel(connection) for _ in range(connection.num_connections)]
        self._stubs = [{make: make(channel) for make in stubs} for channel in self._channels]
        self._is_closed = False
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()  # calls; closing the channel leaves some of them hanging
        places = SharedPlaces(self._start_shared, self._ask_limits, connection.address, self._spread)
        self._places = places if shares_streams else None

    async def close(self) -> None:
        self._is_closed = True
        try:
            if self._places is not None:
                await self._places.close()
        finally:
            for call in list(self._open):
                call.cancel()
            await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(self, call: Call[Any], options: CallOptions) -> Any:
        return await receive(self._start(call, options), self._connection.address)

    def stream(self, call: Call[Any], options: CallOptions) -> "_Answers":
        return _Answers(self._start(call, options), self._connection.address)

    def line(self, call: Call[Any], options: CallOptions) -> "SharedLine | _Line":
        """Raises TypeError for an unknown option."""
        if self._places is None or options.get("metadata"):
            return self._line(call, options)
        self._connection.arguments(call, options)
        self._check_open()
        return SharedLine(self._places, self._line, call, options, self._connection.timeout(options))

    def _line(self, call: Call[Any], options: CallOptions) -> "_Line":
        return _Line(self._start(call, options), self._connection.address, asyncio.get_running_loop())

    def _start_shared(self, home: str) -> Any:
        """The stream has no timeout; each request on it has its own."""
        return self._start(calls.predict_many(), CallOptions(timeout_seconds=None), home)

    async def _ask_limits(self, home: str) -> Any:
        asked = self._start(calls.model(""), CallOptions(timeout_seconds=_LIMITS_SECONDS), home)
        return (await receive(asked, self._connection.address)).limits

    def _start(self, call: Call[Any], options: CallOptions, home: str = "") -> Any:
        """Returns the library's own call. A call whose `request` is None waits for a writer."""
        if call.session_id and self._places is not None:
            home = self._places.home(call.session_id)
        arguments = self._connection.arguments(call, options, home)
        self._check_open()
        request = () if call.request is None else (call.request,)
        stubs = self._stubs[self._spread.choose(home or call.session_id)]
        started = getattr(stubs[call.stub], call.method)(*request, **arguments)
        self._open.add(started)
        return started

    def _check_open(self) -> None:
        if self._is_closed:
            raise closed()


def _open_channel(connection: Connection) -> Any:
    if connection.credentials:
        return grpc.aio.secure_channel(connection.address, connection.credentials, connection.channel_options)
    return grpc.aio.insecure_channel(connection.address, connection.channel_options)


class _Answers:
    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    async def read(self) -> Any:
        return await read(self._call, self._address)

    async def wait_until_open(self) -> None:
        await asyncio.gather(self._call.initial_metadata(), return_exceptions=True)

    def cancel(self) -> None:
        self._call.cancel()


class _Line:
    """A line with its own call."""

    def __init__(self, call: Any, address: str, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is running."""
        self._call = call
        self._address = address
        self._loop = loop
        self._has_written = False
        self._failure: ServerError | None = None
        self._reading = self._read_next()

    @property
    def is_over(self) -> bool:
        return self._failure is not None

    async def exchange(self, request: Any) -> Any:
        if self._failure is not None:
            raise again(self._failure)
        try:
            return await self._exchange(request)
        except ServerError as error:
            self._failure = error
            await self.end(is_orderly=False)
            raise
        except BaseException:
            self.drop()
            raise

    async def end(self, *, is_orderly: bool) -> None:
        self._failure = self._failure or cancelled()
        if is_orderly and not self._reading.done():
            with suppress(asyncio.InvalidStateError, grpc.RpcError):
                await self._call.done_writing()
                await asyncio.wait([self._reading])
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def drop(self) -> None:
        self._failure = self._failure or cancelled()
        self._reading.cancel()
        self._call.cancel()

    def __del__(self) -> None:
        """The line was dropped without an end: its reader would go on. Any thread may collect the line."""
        if self._failure is None:
            with suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def _exchange(self, request: Any) -> Any:
        if not self._reading.done():
            await self._write(request)
        message = await self._reading
        if message is None:
            raise ended_early()
        self._reading = self._read_next()
        return message

    async def _write(self, request: Any) -> None:
        if self._has_written:
            return await write(self._call, request, self._address)
        await write_first(self._call, request, self._address, self._reading)
        self._has_written = True

    def _read_next(self) -> asyncio.Task[Any]:
        """Starts the next read; one read is always open."""
        reading = asyncio.create_task(read(self._call, self._address))
        reading.add_done_callback(note_failure)
        return reading
