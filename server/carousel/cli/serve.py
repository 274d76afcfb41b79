"""`carousel serve`: settings from the environment and the command line, then the application."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from carousel.errors import CarouselError, ModelFailed, SettingsInvalid
from carousel.logs import configure as configure_logging
from carousel.settings import Settings, read_settings

if TYPE_CHECKING:
    from carousel.app import Running
    from carousel.workers.supervisor import Served

_FAILED = 1
_NOT_STARTED = 2
SWITCH_SECONDS = 2e-4  # Python's default lets the engine wait 5 ms after each run of a graph
_YOUNG_OBJECTS = 20_000  # not 700: messages make many objects and no cycles


def serve(
    bundle: Annotated[Path, typer.Argument(help="the bundle's directory, as carousel-export left it")],
    listen: Annotated[str | None, typer.Option(help="gRPC host:port; port 0 takes a free one")] = None,
    http: Annotated[str | None, typer.Option(help="HTTP host:port of /metrics, /healthz, /readyz")] = None,
    openai: Annotated[
        str | None, typer.Option(help="HTTP host:port of the page and of the interface that OpenAI's clients know")
    ] = None,
    providers: Annotated[str | None, typer.Option(help="execution providers in order of preference: cuda,cpu")] = None,
    threads: Annotated[str | None, typer.Option(help="threads of one model step")] = None,
    workers: Annotated[
        str | None, typer.Option(help="processes that share callers' ports; above 1, sessions are in redis")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="any setting as name=value; `carousel settings` lists them")
    ] = None,
) -> None:
    """Serve a bundle over gRPC until SIGTERM."""
    named = {"listen": listen, "http_listen": http, "openai_listen": openai, "providers": providers}
    named |= {"num_threads": threads, "workers": workers}
    try:
        overrides = {name: value for name, value in named.items() if value is not None} | _split_pairs(setting or [])
        settings = read_settings(os.environ, overrides)
        configure_logging(settings.log_level)
        if settings.workers > 1:
            return _supervise(bundle, settings, overrides)
        sys.setswitchinterval(SWITCH_SECONDS)
        uvloop.run(serve_bundle(bundle, settings, _announce, _announce_drain))
    except CarouselError as error:
        typer.echo(f"carousel serve: {error}", err=True)
        raise typer.Exit(_FAILED if isinstance(error, ModelFailed) else _NOT_STARTED) from None


async def serve_bundle(
    bundle: Path, settings: Settings, announce: "Callable[[Running], None]", announce_drain: Callable[[float], None]
) -> None:
    """Serves in this process. Only a process that serves loads a model's runtime: a supervisor of workers does not."""
    from carousel.app import serve

    await serve(bundle, settings, announce, announce_drain)


def settle() -> None:
    """Prepares the interpreter for a long run, once the server is ready."""
    gc.collect()
    gc.freeze()  # the start's objects stay; later collections, which stop everything, need not walk them
    gc.set_threshold(_YOUNG_OBJECTS)


def _supervise(bundle: Path, settings: Settings, overrides: dict[str, str]) -> None:
    """Serves with several processes. This one holds no model, so it is no server, and imports less."""
    from carousel.workers.supervisor import Served, supervise

    def announce(served: Served) -> None:
        typer.echo(
            f"serving gRPC on {served.grpc_address}, HTTP on {served.http_address} "
            f"({served.provider}, {served.num_workers} workers)"
        )
        _announce_web(served)

    end = asyncio.run(supervise(bundle, settings, overrides, announce, _announce_drain))
    if end.code:
        typer.echo(f"carousel serve: {end.why}", err=True)
        raise typer.Exit(end.code)


def _announce(server: "Running") -> None:
    settle()
    typer.echo(f"serving gRPC on {server.grpc_address}, HTTP on {server.http_address} ({server.provider})")
    _announce_web(server)


def _announce_web(server: "Running | Served") -> None:
    if server.openai_url:
        typer.echo(f"OpenAI's clients: {server.openai_url}")
    if server.page_url:
        typer.echo(f"the page: {server.page_url}")


def _announce_drain(seconds: float) -> None:
    text = (
        f"stopping: turns that run have up to {seconds:g} s to finish. A second Ctrl-C or SIGTERM ends the server at "
        "once: these turns are not applied, and no memory_file is written"
    )
    with suppress(OSError):  # the reader of the first line may be gone
        typer.echo(text)


def _split_pairs(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise SettingsInvalid(f"--set takes name=value, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)
