"""One HTTP request in progress, as `sessions` sees a call: what is known of it, and where its answer is written."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request

from carousel.errors import InvalidRequest
from carousel.web.peers import collect_evidence

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[str, str]


class Disconnected(Exception):
    """The client has gone in the middle of an answer."""


class Exchange:
    """A request and its answer. A streamed answer begins with its first message and ends with `end`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope, receive)
        self.evidence = collect_evidence(self.request)
        self.is_begun = False
        self.is_gone = False
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

    async def answer(self, status: int, content: bytes, headers: Headers) -> None:
        """Sends the whole answer."""
        self.is_begun = True
        await self._send_head(status, headers | {"content-length": str(len(content))})
        await self._send({"type": "http.response.body", "body": content})

    async def begin(self, headers: Headers) -> None:
        """Begins a streamed answer with status 200."""
        self.is_begun = True
        await self._send_head(200, headers)

    async def write(self, message: bytes) -> None:
        """Sends a part of a streamed answer. Waits while the client does not read."""
        if self.is_gone:
            raise Disconnected
        await self._send({"type": "http.response.body", "body": message, "more_body": True})

    async def end(self) -> None:
        if not self.is_gone:
            await self._send({"type": "http.response.body", "body": b""})

    async def _send_head(self, status: int, headers: Headers) -> None:
        fields = [(key.encode("latin-1"), value.encode("latin-1", "replace")) for key, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})

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
