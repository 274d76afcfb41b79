"""The asyncio client's wire, over grpc.aio. `_async/wire.py` says what it keeps to; `blocking` is its twin."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypedDict

import grpc
import grpc.aio

from carousel.client.core import calls
from carousel.client.core.calls import Call
from carousel.client.core.connection import CHANNEL_OPTIONS, Connection
from carousel.client.core.errors import ServerError, again, cancelled, closed, ended_early
from carousel.client.core.options import CallOptions
from carousel.client.core.stubs import STUBS, MakeStub
from carousel.client.wires.aio_messages import note_failure, read, receive, write, write_first
from carousel.client.wires.shared_lines import SharedLine
from carousel.client.wires.shared_places import SharedPlaces

Sleep = Callable[[float], Awaitable[None]]
sleep: Sleep = asyncio.sleep
_LIMITS_SECONDS = 5.0  # that a server has to say what it can carry


class WireOptions(TypedDict, total=False):
    """What the asyncio client can be told beside what both kinds can.

    `shares_streams`, unless it is False: predictors have their questions carried by a few streams together. Those that
    bring metadata have streams of their own, as all have where the server does not know better.
    """

    shares_streams: bool


class GrpcWire:
    """It belongs to the event loop that runs when it is made."""

    def __init__(
        self, connection: Connection, *, shares_streams: bool = True, stubs: Iterable[MakeStub] = STUBS
    ) -> None:
        self._connection = connection
        self._channel = (
            grpc.aio.secure_channel(connection.address, connection.credentials, CHANNEL_OPTIONS)
            if connection.credentials
            else grpc.aio.insecure_channel(connection.address, CHANNEL_OPTIONS)
        )
        self._stubs = {make: make(self._channel) for make in stubs}
        self._is_closed = False
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()  # calls; closing the channel leaves some of them hanging
        places = SharedPlaces(self._start_shared, self._ask_limits, connection.address)
        self._places = places if shares_streams else None

    async def close(self) -> None:
        self._is_closed = True
        try:
            if self._places is not None:
                await self._places.close()
        finally:
            for call in list(self._open):
                call.cancel()
            await self._channel.close()

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
        """It lives as long as it can; what it carries has times of its own."""
        return self._start(calls.predict_many(), CallOptions(timeout_seconds=None), home)

    async def _ask_limits(self, home: str) -> Any:
        asked = self._start(calls.model(""), CallOptions(timeout_seconds=_LIMITS_SECONDS), home)
        return (await receive(asked, self._connection.address)).limits

    def _start(self, call: Call[Any], options: CallOptions, home: str = "") -> Any:
        """The library's own call. One whose `request` is None waits for somebody to write."""
        if call.session_id and self._places is not None:
            home = self._places.home(call.session_id)
        arguments = self._connection.arguments(call, options, home)
        self._check_open()
        request = () if call.request is None else (call.request,)
        started = getattr(self._stubs[call.stub], call.method)(*request, **arguments)
        self._open.add(started)
        return started

    def _check_open(self) -> None:
        if self._is_closed:
            raise closed()


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
    """A call of its own."""

    def __init__(self, call: Any, address: str, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` runs."""
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
        """Nobody has ended it: its reader would read on. Which thread collects it is not known."""
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
        """Always reading."""
        reading = asyncio.create_task(read(self._call, self._address))
        reading.add_done_callback(note_failure)
        return reading
