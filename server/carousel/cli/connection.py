"""Options that the commands share, and the hint for a missing session."""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from carousel.client import AsyncClient, Client, ServerError, Tls
from carousel.client.core.token import check_token, stays_here
from carousel.errors import CarouselError, SettingsInvalid

DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[str, typer.Option("--address", envvar="CAROUSEL_ADDRESS", help="The server's host:port.")]
SessionId = Annotated[str, typer.Option("--session", metavar="ID", help="Continue this session. Default: none.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]

_TOKEN = "CAROUSEL_TOKEN"  # no option: others on this machine can read a command line
_GIVEN: ContextVar[Mapping[str, Any]] = ContextVar("connection", default=MappingProxyType({}))  # the options below
_MISSING = ("SESSION_NOT_FOUND", "SESSION_ENDED", "SESSION_EXPIRED", "SESSION_EVICTED", "SESSION_DELETED")


def connection(
    tls: Annotated[bool, typer.Option("--tls", envvar="CAROUSEL_TLS", help="Encrypt the connection.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar="CAROUSEL_CA", help="PEM of who signed the server's certificate; with --tls.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="CAROUSEL_CLIENT_CERT", help="PEM of your own certificate; with --tls.")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar="CAROUSEL_CLIENT_KEY", help="PEM of its key; with --tls.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="CAROUSEL_TOKEN_FILE", help="File with your token. Default: CAROUSEL_TOKEN.")
    ] = None,
    plaintext_token: Annotated[
        bool, typer.Option(envvar="CAROUSEL_PLAINTEXT_TOKEN", help="Send the token to others without --tls, too.")
    ] = False,
) -> None:
    """Declares the options of every command that talks to a server; `open_client` reads them."""


def remember(context: Any, parameter: Any, value: Any) -> Any:
    """The callback of each option of `connection`: commands need not pass them on."""
    _GIVEN.set({**_GIVEN.get(), parameter.name: value})
    return value


def open_client(address: str, **options: Any) -> Client:
    """A client of the address, as the command line says. Raises SettingsInvalid for what cannot be used."""
    return Client(address, **_read_options(address), **options)


def open_async_client(address: str) -> AsyncClient:
    """The same for asyncio."""
    return AsyncClient(address, **_read_options(address))


def _read_options(address: str) -> dict[str, Any]:
    """Raises SettingsInvalid for a bad file or token, and for a token that would go to others unencrypted."""
    tls, token, plaintext = _read_tls(), _read_token(), bool(_GIVEN.get().get("plaintext_token"))
    if token and tls is None and not plaintext and not stays_here(address):
        problem = f"the token would go to {address} unencrypted; use --tls, or allow it with --plaintext-token"
        raise SettingsInvalid(problem)
    return {"tls": tls, "token": token, "plaintext_token": plaintext}


def _read_token() -> str | None:
    """The file's, else the environment's; None where neither is given."""
    path = _GIVEN.get().get("token_file")
    _check_readable(path)
    token = os.environ.get(_TOKEN) if path is None else path.read_text(encoding="utf-8", errors="replace").strip()
    if token is None:
        return None
    try:
        check_token(token)
    except ValueError as error:
        raise SettingsInvalid(f"{path or _TOKEN}: {error}") from error
    return str(token)


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
