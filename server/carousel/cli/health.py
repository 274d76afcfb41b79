"""`carousel health`: for container health checks, so it starts and gives up quickly."""

from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, open_client
from carousel.errors import SettingsInvalid

_NOT_SERVING = 1


def health(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 3.0,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Ask /readyz of this HTTP address instead, encrypted or not.")
    ] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Ask whether the server is ready. Exit code 0 when it is, 1 when it is not or does not answer."""
    is_serving = _is_ready(http, timeout) if http else _is_serving(address, timeout)
    print("serving" if is_serving else "not serving")
    if not is_serving:
        raise typer.Exit(_NOT_SERVING)


def _is_serving(address: str, timeout: float) -> bool:
    with open_client(address, timeout_seconds=timeout) as client:
        return client.is_serving()


def _is_ready(address: str, timeout: float) -> bool:
    """Plain first; an encrypted server does not answer that. Its certificate need not name this machine, so it is not
    checked: nothing but readiness is at stake."""
    import http.client
    import ssl

    host, colon, port = address.rpartition(":")  # carousel.settings would load pydantic
    if not (colon and host and port.isdigit() and int(port) <= 65_535):
        raise SettingsInvalid(f"--http: must be host:port, not {address!r}")
    unchecked = ssl._create_unverified_context()
    for connection in (
        http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout),
        http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=timeout, context=unchecked),
    ):
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False
