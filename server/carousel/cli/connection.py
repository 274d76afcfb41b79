"""Options that the commands share."""

from typing import Annotated

import typer

DEFAULT_ADDRESS = "127.0.0.1:50051"

Address = Annotated[str, typer.Option("--address", envvar="CAROUSEL_ADDRESS", help="The server's host:port.")]
SessionId = Annotated[str, typer.Option("--session", metavar="ID", help="Continue this session. Default: none.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
