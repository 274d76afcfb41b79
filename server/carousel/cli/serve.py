"""`carousel serve`: settings from the environment and the command line, then the application."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import rich
import rich.table
import typer

from carousel.app import Running, configure_logging
from carousel.app import serve as serve_bundle
from carousel.errors import CarouselError, ModelFailed, SettingsInvalid
from carousel.settings import Settings, read_settings

_FAILED = 1
_NOT_STARTED = 2


def serve(
    bundle: Annotated[Path, typer.Argument(help="the bundle's directory, as carousel-export left it")],
    listen: Annotated[str | None, typer.Option(help="gRPC host:port; port 0 takes a free one")] = None,
    http: Annotated[str | None, typer.Option(help="HTTP host:port of /metrics, /healthz, /readyz")] = None,
    providers: Annotated[str | None, typer.Option(help="execution providers in order of preference: cuda,cpu")] = None,
    threads: Annotated[str | None, typer.Option(help="threads of one model step")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="any setting as name=value; `carousel settings` lists them")
    ] = None,
) -> None:
    """Serve a bundle over gRPC until SIGTERM."""
    named = {"listen": listen, "http_listen": http, "providers": providers, "num_threads": threads}
    overrides = {name: value for name, value in named.items() if value is not None}
    try:
        settings = read_settings(os.environ, overrides | _split_pairs(setting or []))
        configure_logging(settings.log_level)
        asyncio.run(serve_bundle(bundle, settings, _announce))
    except CarouselError as error:
        typer.echo(f"carousel serve: {error}", err=True)
        raise typer.Exit(_FAILED if isinstance(error, ModelFailed) else _NOT_STARTED) from None


def settings() -> None:
    """List every setting: environment variable, default, meaning."""
    table = rich.table.Table("setting", "environment", "default", "meaning")
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        table.add_row(name, f"CAROUSEL_{name.upper()}", default, field.description)
    rich.print(table)


def _announce(server: Running) -> None:
    typer.echo(f"serving gRPC on {server.grpc_address}, HTTP on {server.http_address} ({server.provider})")


def _split_pairs(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise SettingsInvalid(f"--set takes name=value, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)
