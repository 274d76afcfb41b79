"""The HTTP side for operators: /metrics, /healthz, /readyz. It runs beside gRPC, in the same event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, cast

import uvicorn
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from carousel.errors import CarouselError, SettingsInvalid
from carousel.identity.certificates import Certificate, http_context
from carousel.identity.doorkeeper import Evidence
from carousel.identity.watched_files import WatchedFiles
from carousel.settings import split_address
from carousel.web.errors import to_response
from carousel.web.peers import CertificateProtocol, collect_evidence

_LAST_BYTES_SECONDS = 1.0  # in which clients read the ends of their answers, at shutdown
_TICK_SECONDS = 1.0
_CANCEL_SECONDS = 3  # until uvicorn gives up what does not end
Admit = Callable[[str, Evidence], None]  # takes a path; raises CarouselError for a request that may not be made
_Handler = Callable[[Request], Awaitable[Response]]


class Ready(Protocol):
    """Whether the server is ready, and a line about it."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def text(self) -> str: ...


def make_app(registry: Collector, readiness: Ready, admit: Admit) -> Starlette:
    """`admit` is asked before each request. `registry` has the metrics; a thread collects them."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        page = await asyncio.to_thread(encode, registry)  # more than 10 ms when every method has seen every code
        return Response(page, headers={"Content-Type": content_type})

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        return PlainTextResponse(f"{readiness.text}\n", status_code=200 if readiness.is_ready else 503)

    handlers: dict[str, _Handler] = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    return Starlette(routes=[Route(path, _guard(path, handle, admit)) for path, handle in handlers.items()])


def _guard(path: str, handle: _Handler, admit: Admit) -> _Handler:
    async def answer(request: Request) -> Response:
        try:
            admit(path, collect_evidence(request))
        except CarouselError as error:
            return to_response(error)
        return await handle(request)

    return answer


class WebServer:
    """The server is bound after `start`. The application handles signals, so uvicorn gets none."""

    def __init__(self, app: Any) -> None:
        # The protocols are named, because "auto" imports every installed implementation.
        # A peer is who opened the connection, whatever its headers say of proxies.
        self._config = uvicorn.Config(
            app,
            http=CertificateProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            timeout_graceful_shutdown=_CANCEL_SECONDS,
        )
        self._server = _QuietServer(self._config)
        self._task: asyncio.Task[None] | None = None
        self.address = ""  # host:port, once started

    async def start(
        self,
        listen: str,
        certificate: WatchedFiles[Certificate] | None = None,
        setting: str = "http_listen",
        *,
        for_callers: bool = False,
        shares_port: bool = False,
    ) -> None:
        """Encrypted where there is a certificate; `for_callers`, theirs is demanded as over gRPC. With `shares_port`,
        other processes of the same user may listen there too. Raises SettingsInvalid when the address cannot be bound;
        `setting` names it."""
        host, port = split_address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            bound = socket.create_server((host, port), family=family, reuse_port=shares_port)
        except OSError as error:
            raise SettingsInvalid(f"{setting}: cannot bind {listen}: {error.strerror}") from error
        self.address = f"[{host}]:{bound.getsockname()[1]}" if ":" in host else f"{host}:{bound.getsockname()[1]}"
        self._config.load()
        if certificate is not None:
            self._config.ssl = http_context(certificate, for_callers=for_callers)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name="web")

    async def stop(self) -> None:
        """Closes the connections, at last those too whose clients do not read."""
        self._server.end()
        if self._task is not None:
            await self._task


class _QuietServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Wakes once a second for the date in answers, and at the end. uvicorn's own loop wakes ten times a second to
        see whether it should end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.get_running_loop().call_later(_LAST_BYTES_SECONDS, self._abort)
        try:
            await super().shutdown(sockets)
        finally:
            closing.cancel()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            cast(CertificateProtocol, connection).transport.abort()
