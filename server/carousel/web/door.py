"""What every request passes: no website can drive the server, and each call has an owner, a place and one ending."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from carousel.errors import InvalidRequest
from carousel.sessions.calls import Call, CallRefused, Calls
from carousel.web import json_errors
from carousel.web.exchange import Disconnected, Exchange, Receive, Scope, Send, Spell, end, part, whole

JSON_HEADERS = {"content-type": "application/json"}
_LOCAL = frozenset({"localhost"})
BODY_SECONDS = 30.0  # in which a body must arrive
_REFUSAL_SECONDS = 5.0  # in which a refusal must be taken: the call has no place any more
_BODILESS = frozenset({"GET", "HEAD", "DELETE"})


class Named:
    """What a request names, for its log line."""

    def __init__(self, session_id: str = "", request_id: str = "") -> None:
        self.session_id = session_id
        self.request_id = request_id


Handle = Callable[[Call, Exchange, bytes], Awaitable[None]]


class Door:
    """The calls of one HTTP transport, among all open calls."""

    def __init__(self, calls: Calls, max_bytes: int, params: Mapping[str, str]) -> None:
        """`params` has the names of fields that are others over HTTP."""
        self._calls = calls
        self._max_bytes = max_bytes
        self._params = params

    def endpoint(self, path: str, handle: Handle, *, is_counted: bool = True) -> "_Endpoint":
        """Returns the ASGI application of one path. `handle` gets the whole body."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(path, Exchange(scope, receive, send), handle, is_counted)

        return _Endpoint(answer)

    async def _answer(self, path: str, exchange: Exchange, handle: Handle, is_counted: bool) -> None:
        method = exchange.request.method
        attributes = {"http.request.method": method, "http.route": path}
        call = Call(path, Named(), exchange.evidence, Disconnected, (f"{method} {path}", attributes))
        try:
            async with self._calls.answer(call, exchange, is_counted=is_counted):
                content = await self._read(call, exchange) if method not in _BODILESS else b""
                async with exchange.ending_with_the_client():
                    await handle(call, exchange, content)
        except CallRefused as refused:
            await _tell(exchange, refused.error, self._params)
        except asyncio.CancelledError:
            if call.ended_by is not None:  # in the middle of a message that the client does not read
                return await exchange.abort()
            if not exchange.is_gone:
                raise
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                task.uncancel()

    async def _read(self, call: Call, exchange: Exchange) -> bytes:
        call.is_waiting = True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await exchange.read(self._max_bytes)
        except TimeoutError as error:
            exchange.is_late = True
            raise InvalidRequest("body", f"did not arrive within {BODY_SECONDS:g} seconds") from error
        except Disconnected as error:
            raise asyncio.CancelledError from error
        finally:
            call.is_waiting = False


class _Endpoint:
    """A class, since Starlette takes functions for handlers of its own kind."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def answer_whole(call: Call, exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    """Writes an answer in one piece. The call goes on until all but the last bytes are read."""
    for message in whole(200, content, headers):
        await call.write(exchange, message)


async def answer_json(call: Call, exchange: Exchange, content: Any) -> None:
    await answer_whole(call, exchange, json.dumps(content).encode(), JSON_HEADERS)


async def _tell(exchange: Exchange, error: Exception, params: Mapping[str, str]) -> None:
    """Sends the error. A client that does not take it loses its connection."""
    try:
        async with asyncio.timeout(_REFUSAL_SECONDS):
            await _refuse(exchange, error, params)
    except TimeoutError:
        await exchange.abort()


async def _refuse(exchange: Exchange, error: Exception, params: Mapping[str, str]) -> None:
    """In the middle of a stream, the error is its last event. In the middle of a whole answer there is no place."""
    with contextlib.suppress(Disconnected):
        if not exchange.is_begun:
            status, headers = json_errors.status_of(error), json_errors.to_headers(error)
            if exchange.is_late:
                status, headers = 408, headers | {"connection": "close"}
            spell = exchange.spell or json_errors.Terms(params).to_body
            for message in whole(status, spell(error), headers):
                await exchange.write(message)
        elif exchange.is_stream:
            last = exchange.last_words or _as_event(params)
            await exchange.write(part(last(error)))
            await exchange.write(end())
        else:
            await exchange.abort()


def _as_event(params: Mapping[str, str]) -> Spell:
    return lambda error: b"data: " + json_errors.Terms(params).to_body(error) + b"\n\n"


class Guard:
    """Refuses what a website could make a browser send: a name that is not ours, another page's origin, a form."""

    def __init__(self, app: Any, hosts: Collection[str]) -> None:
        """`hosts` are the names beside localhost and plain addresses under which callers reach this server."""
        self._app = app
        self._hosts = _LOCAL | {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal({key: value.decode("latin-1") for key, value in scope["headers"]}, scope["method"])
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            status, content, headers = refusal
            exchange = Exchange(scope, receive, send)
            with contextlib.suppress(Disconnected):
                for message in whole(status, content, headers):
                    await exchange.write(message)

    def _refusal(self, headers: dict[bytes, str], method: str) -> tuple[int, bytes, dict[str, str]] | None:
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            return json_errors.refusal(403, "this server is not known by that name (openai_hosts)", "host_not_allowed")
        origin = headers.get(b"origin")
        if origin is not None and not _is_of(origin, host):
            return json_errors.refusal(403, "other pages may not call this server", "origin_not_allowed")
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if method not in _BODILESS and kind != "application/json":
            return json_errors.refusal(415, "the body must be application/json", "content_type")
        return None

    def _is_ours(self, host: str) -> bool:
        """A plain address is no name that somebody could point here."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def request_id_of(exchange: Exchange, session_id: str) -> str:
    """Returns the request id that the header Idempotency-Key stands for. Without a session nothing is remembered."""
    return key_of(exchange) if session_id else ""


def key_of(exchange: Exchange) -> str:
    """Returns the header Idempotency-Key as a request id, empty if there is none."""
    key = exchange.request.headers.get("idempotency-key", "")
    return blake2b(key.encode(), digest_size=16).hexdigest() if key else ""


def session_id_of(exchange: Exchange, named: str) -> str:
    """Returns the session that the body or the header x-session-id names. Raises InvalidRequest if they differ."""
    header = exchange.request.headers.get("x-session-id", "")
    if named and header and named != header:
        raise InvalidRequest("session_id", "is not that of the header x-session-id")
    return named or header
