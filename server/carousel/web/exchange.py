"""One HTTP request in progress, as `sessions` sees a call: what is known of it, and where its answer is written."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from starlette.requests import Request

from carousel.errors import InvalidRequest
from carousel.web.peers import abort, collect_evidence

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[str, str]
Spell = Callable[[Exception], bytes]
_PART_BYTES = 65_536  # of a whole answer
_ABORT_SECONDS = 1.0  # until an aborted connection has told so


class Disconnected(Exception):
    """The client has gone in the middle of an answer."""


class Exchange:
    """A request and its answer, which is written message by message."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope, receive)
        self.evidence = collect_evidence(self.request)
        self.is_begun = False
        self.is_gone = False
        self.is_late = False  # its body has not arrived in time
        self.is_stream = False
        self.spell: Spell | None = None  # writes the body of an error, where the call has terms of its own
        self.last_words: Spell | None = None  # writes what ends a stream at an error, likewise
        self._receive = receive
        self._send = send

    def peer(self) -> str:
        return self.evidence.peer

    def time_remaining(self) -> float | None:
        return None  # HTTP has no deadlines

    async def read(self, max_bytes: int) -> bytes:
        """Returns the request's body. Raises InvalidRequest for more than `max_bytes`, and Disconnected."""
        parts, num_bytes = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                raise Disconnected
            parts.append(message.get("body", b""))
            num_bytes += len(parts[-1])
            if num_bytes > max_bytes:
                raise InvalidRequest("body", f"more than {max_bytes} bytes (max_message_bytes)")
            if not message.get("more_body", False):
                return b"".join(parts)

    async def write(self, message: Message) -> None:
        """Sends a message of the answer. Waits while the client has not read the messages before it."""
        if self.is_gone:
            raise Disconnected
        await self._send(message)
        if message["type"] == "http.response.start":
            self.is_begun = True

    async def abort(self) -> None:
        """Closes the connection, whatever is unread."""
        self.is_gone = True
        abort(self.request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS):
                while (await self._receive())["type"] != "http.disconnect":
                    pass

    @contextlib.asynccontextmanager
    async def ending_with_the_client(self) -> AsyncIterator[None]:
        """Cancels the block when the client goes. The whole request must have been read."""
        task = asyncio.current_task()
        assert task is not None
        watch = asyncio.create_task(self._watch(task))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        task.cancel()


def head(status: int, headers: Headers) -> Message:
    """Returns the message that begins an answer."""
    fields = [(key.encode("latin-1"), value.encode("latin-1", "replace")) for key, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": fields}


def part(content: bytes) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": True}


def end() -> Message:
    """Returns the message that ends an answer. It waits for what is unread before it."""
    return {"type": "http.response.body", "body": b""}


def whole(status: int, content: bytes, headers: Headers) -> Iterator[Message]:
    """Yields the messages of an answer in one piece."""
    yield head(status, headers | {"content-length": str(len(content))})
    for first in range(0, len(content), _PART_BYTES):
        yield part(content[first : first + _PART_BYTES])
    yield end()
