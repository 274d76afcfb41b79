"""The command `carousel`. It imports a command's module only when needed, so that small commands start fast.

It knows the commands' names and how errors are shown: one line on standard error, exit code 1.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from carousel.errors import CarouselError

_FAILED = 1
_COMMANDS = {  # where each function is, in the order of --help
    "serve": "carousel.cli.serve:serve",
    "settings": "carousel.cli.settings:settings",
    "new-key": "carousel.cli.new_key:new_key",
    "token": {"new": "carousel.cli.token:new"},
    "generate": "carousel.cli.generate:generate",
    "predict": "carousel.cli.predict:predict",
    "score": "carousel.cli.score:score",
    "tokenize": "carousel.cli.tokenize:tokenize",
    "sessions": {
        "list": "carousel.cli.sessions:list_sessions",
        "create": "carousel.cli.sessions:create",
        "get": "carousel.cli.sessions:get",
        "delete": "carousel.cli.sessions:delete",
        "fork": "carousel.cli.sessions:fork",
        "rewind": "carousel.cli.sessions:rewind",
        "checkpoint": "carousel.cli.sessions:checkpoint",
        "history": "carousel.cli.sessions:history",
        "export": "carousel.cli.sessions:export",
        "import": "carousel.cli.sessions:import_state",
        "watch": "carousel.cli.sessions:watch",
    },
    "models": "carousel.cli.models:models",
    "health": "carousel.cli.health:health",
}

_GROUPS = {"token": "Make tokens for those that call.", "sessions": "Look after the server's sessions."}


class _LazyGroup(TyperGroup):
    """A group of commands by name, each imported on first use."""

    def __init__(self, name: str, places: dict[str, Any], help_text: str) -> None:
        super().__init__(name=name, help=help_text, no_args_is_help=True)
        self._places = places

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        place = self._places.get(cmd_name)
        if place is None:
            return None
        if isinstance(place, dict):
            return _LazyGroup(cmd_name, place, _GROUPS[cmd_name])
        return _load_command(cmd_name, place)


def _load_command(name: str, place: str) -> TyperCommand:
    module, _, function = place.partition(":")
    app = typer.Typer(add_completion=False)
    app.command(name)(getattr(importlib.import_module(module), function))
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    if any(option.name == "address" for option in command.params):
        command.params += _make_connection()
    return command


def _make_connection() -> list[Any]:
    """The options of every command that talks to a server. None of them is an argument of the command's function."""
    from carousel.cli.connection import connection, remember  # loads the client, which some commands do without

    options = _make_options(connection)
    for option in options:
        option.callback, option.expose_value = remember, False
    return options


def build_commands() -> TyperGroup:
    group = _LazyGroup("carousel", _COMMANDS, "Serve recurrent language models, and talk to a server.")
    group.params = _make_options(_whole)
    return group


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        import importlib.metadata  # slow to import and only needed here

        print(f"carousel {importlib.metadata.version('carousel-serving')}")
        raise typer.Exit


def _whole(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declares the options of the group itself."""


def _make_options(function: Callable[..., None]) -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.callback()(function)
    return typer.main.get_group(app).params


def main() -> None:
    try:
        build_commands()(prog_name="carousel")
    except CarouselError as error:
        print(f"carousel: {_explain(error)}", file=sys.stderr)
        sys.exit(_FAILED)


def _explain(error: CarouselError) -> str:
    from carousel.client import ServerUnreachable  # loaded already, unless the server itself failed to start

    message = " ".join(str(error).split())
    if isinstance(error, ServerUnreachable):
        return f"{message} (start one with: carousel serve BUNDLE)"
    return message
