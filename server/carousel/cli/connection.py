"""Options that the commands share, and the hint for a missing session."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from carousel.client import AsyncClient, Client, ServerError, Tls
from carousel.errors import CarouselError, SettingsInvalid

DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[str, typer.Option("--address", envvar="CAROUSEL_ADDRESS", help="The server's host:port.")]
SessionId = Annotated[str, typer.Option("--session", metavar="ID", help="Continue this session. Default: none.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]

_GIVEN: ContextVar[Mapping[str, Any]] = ContextVar("encryption", default=MappingProxyType({}))  # the options below
_MISSING = ("SESSION_NOT_FOUND", "SESSION_ENDED", "SESSION_EXPIRED", "SESSION_EVICTED", "SESSION_DELETED")


def encryption(
    tls: Annotated[bool, typer.Option("--tls", envvar="CAROUSEL_TLS", help="Encrypt the connection.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar="CAROUSEL_CA", help="PEM of who signed the server's certificate; with --tls.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="CAROUSEL_CLIENT_CERT", help="PEM of your own certificate; with --tls.")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar="CAROUSEL_CLIENT_KEY", help="PEM of its key; with --tls.")] = None,
) -> None:
    """Declares the options of every command that talks to a server; `open_client` reads them."""


def remember(context: Any, parameter: Any, value: Any) -> Any:
    """The callback of each option of `encryption`: commands need not pass them on."""
    _GIVEN.set({**_GIVEN.get(), parameter.name: value})
    return value


def open_client(address: str, **options: Any) -> Client:
    """A client of the address, encrypted as the command line says. Raises SettingsInvalid for bad files."""
    return Client(address, tls=_read_tls(), **options)


def open_async_client(address: str) -> AsyncClient:
    """The same for asyncio."""
    return AsyncClient(address, tls=_read_tls())


def _read_tls() -> Tls | None:
    """None where nothing is encrypted."""
    given = _GIVEN.get()
    files = {name: given.get(name) for name in ("ca", "cert", "key")}
    if given.get("tls"):
        for path in files.values():
            _check_readable(path)
        if (files["cert"] is None) != (files["key"] is None):
            raise SettingsInvalid("--cert and --key go together")
        return Tls(**files)
    if named := [name for name, path in files.items() if path is not None]:
        raise SettingsInvalid(f"--{named[0]} goes with --tls")
    return None


def _check_readable(path: Path | None) -> None:
    """Raises SettingsInvalid, with the reason."""
    try:
        if path is not None:
            path.open("rb").close()
    except OSError as error:
        raise SettingsInvalid(f"{path}: {error.strerror}") from error


@contextmanager
def explaining_missing(session_id: str) -> Iterator[None]:
    """Adds the command that creates the session to the error when the server does not have it."""
    try:
        yield
    except ServerError as error:
        if not session_id or error.reason not in _MISSING:
            raise
        argument = f"{'-- ' if session_id.startswith('-') else ''}{shlex.quote(session_id)}"
        raise CarouselError(f"{error} (make it with: carousel sessions create {argument})") from error
