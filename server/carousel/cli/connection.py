"""Options that the commands share, and the hint for a missing session."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from carousel.client import ServerError
from carousel.errors import CarouselError

DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[str, typer.Option("--address", envvar="CAROUSEL_ADDRESS", help="The server's host:port.")]
SessionId = Annotated[str, typer.Option("--session", metavar="ID", help="Continue this session. Default: none.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]

_MISSING = ("SESSION_NOT_FOUND", "SESSION_ENDED", "SESSION_EXPIRED", "SESSION_EVICTED", "SESSION_DELETED")


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
