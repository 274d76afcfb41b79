"""`carousel health`: for container health checks, hence quick to start and to give up."""

from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, open_client

_NOT_SERVING = 1


def health(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 3.0,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Ask whether the server is ready. Exit code 0 when it is, 1 when it is not or does not answer."""
    with open_client(address, timeout_seconds=timeout) as client:
        is_serving = client.is_serving()
    print("serving" if is_serving else "not serving")
    if not is_serving:
        raise typer.Exit(_NOT_SERVING)
