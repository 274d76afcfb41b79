"""How a sequence's requests travel: on a stream of its own, or with others on a shared one; for all servers alike."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from bench.peers.conversation import Conversation, ServerFailed, read

_LEAVING_SECONDS = 5.0  # that a server may take to end a shared stream

Pack = Callable[[list[tuple[int, Any]]], Iterable[Any]]  # tags with their requests into messages
Unpack = Callable[[Any], Iterable[tuple[int, Any]]]  # a message into tags with their answers, or what went wrong


class Line(Protocol):
    """One sequence's. Each answer comes before the next request goes."""

    async def ask(self, request: Any) -> Any:
        """Raises ServerFailed."""

    async def close(self) -> None:
        """Nothing more will be asked."""


class OwnStream:
    """A stream that is the sequence's alone."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def ask(self, request: Any) -> Any:
        await self._call.write(request)
        return await read(self._call)

    async def close(self) -> None:
        await self._call.done_writing()


class SharedStream:
    """One stream for many sequences, told apart by tags: what they ask in the same round of the event loop is packed
    together. To be closed, which also ends what the server keeps for them."""

    def __init__(self, call: Any, pack: Pack, unpack: Unpack) -> None:
        self._call = call
        self._pack = pack
        self._unpack = unpack
        self._asked: list[tuple[int, Any]] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()
        self._is_closing = False
        self._failure: ServerFailed | None = None
        self._tasks = [asyncio.create_task(self._work(part)) for part in (self._write, self._read)]

    def line(self, tag: int) -> Line:
        return _Tag(self, tag)

    async def ask(self, tag: int, request: Any) -> Any:
        if self._failure is not None:
            raise self._failure
        answer = self._answers[tag] = asyncio.get_running_loop().create_future()
        self._asked.append((tag, request))
        self._changed.set()
        return await answer

    async def close(self) -> None:
        self._is_closing = True
        self._changed.set()
        await asyncio.wait(self._tasks, timeout=_LEAVING_SECONDS)
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, part: Callable[[], Awaitable[None]]) -> None:
        """A part of the stream's work; when it fails, nobody shall wait for an answer."""
        try:
            await part()
        except Exception as error:
            self._failure = error if isinstance(error, ServerFailed) else ServerFailed(repr(error))
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(self._failure)
            self._answers.clear()

    async def _write(self) -> None:
        while not self._is_closing:
            await self._changed.wait()
            self._changed.clear()
            asked, self._asked = self._asked, []
            for message in self._pack(asked):
                await self._call.write(message)
        await self._call.done_writing()

    async def _read(self) -> None:
        while True:
            for tag, answer in self._unpack(await read(self._call)):
                waiting = self._answers.pop(tag)
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)


class _Tag:
    """A sequence's place on a shared stream."""

    def __init__(self, stream: SharedStream, tag: int) -> None:
        self._stream = stream
        self._tag = tag

    async def ask(self, request: Any) -> Any:
        return await self._stream.ask(self._tag, request)

    async def close(self) -> None:
        pass


class Apart:
    """The way of conversations that share nothing."""

    def __init__(self, start: Callable[[], Conversation]) -> None:
        self._start = start

    def open(self) -> Conversation:
        return self._start()

    async def close(self) -> None:
        pass


class Together:
    """The way of conversations that share a few streams, in turn."""

    def __init__(self, streams: list[SharedStream], start: Callable[[Line], Conversation]) -> None:
        self._streams = streams
        self._start = start
        self._num_opened = 0

    def open(self) -> Conversation:
        self._num_opened += 1
        return self._start(self._streams[self._num_opened % len(self._streams)].line(self._num_opened))

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()
