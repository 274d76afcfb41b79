"""`carousel-train settings`: lists the settings that `settings.py` declares."""

import enum
import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel

from carousel_training.settings import Settings

_HOW = "Set one with --set SECTION.KEY=VALUE, or in a TOML file (--config) under [section]; --set wins."


@dataclass(frozen=True, slots=True)
class Setting:
    name: str  # section.key, as --set takes it
    default: str
    values: str  # empty: any of the default's kind


def list_settings(as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False) -> None:
    """List every setting with its name, default and possible values."""
    if as_json:
        for _, _, settings in describe_all():
            for setting in settings:
                print(json.dumps(asdict(setting)))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    print("\n".join(format_all(width)))


def describe_all() -> Iterator[tuple[str, str, tuple[Setting, ...]]]:
    """Yields section, meaning and settings, beginning with the settings outside of any section."""
    plain = tuple(_describe("", name) for name in Settings.model_fields if _section(name) is None)
    yield "", "", plain
    for name in Settings.model_fields:
        section = _section(name)
        if section is not None:
            keys = tuple(_describe(f"{name}.", key, section) for key in section.model_fields)
            yield name, inspect.cleandoc(section.__doc__ or "").replace("`", ""), keys


def format_all(width: int) -> Iterator[str]:
    """Formats the list. It wraps meanings and lists of values, and never cuts names and defaults."""
    sections = list(describe_all())
    names, defaults = _widths(setting for _, _, settings in sections for setting in settings)
    for name, meaning, settings in sections:
        if name:
            yield from ("", name)
            for paragraph in meaning.split("\n\n"):
                yield from textwrap.wrap(paragraph, max(width, 40), initial_indent="  ", subsequent_indent="  ")
        for setting in settings:
            head = f"  {setting.name:<{names}}  {setting.default:<{defaults}}  "
            room = max(width, len(head) + 24)
            lines = textwrap.wrap(
                setting.values, room, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
            )
            yield from lines or [head.rstrip()]
    yield from ("", _HOW)


def _widths(settings: Iterable[Setting]) -> tuple[int, int]:
    found = tuple(settings)
    return max(len(one.name) for one in found), max(len(one.default) for one in found)


def _section(name: str) -> type[BaseModel] | None:
    kind = Settings.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _describe(prefix: str, key: str, section: type[BaseModel] = Settings) -> Setting:
    field = section.model_fields[key]
    default = Settings.model_fields[prefix.rstrip(".")].default if prefix else Settings()
    return Setting(prefix + key, _format(getattr(default, key)), ", ".join(_choices(field.annotation)))


def _format(value: Any) -> str:
    """Formats a value as --set takes it, or as `none`."""
    if value is None or value == ():
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices(kind: Any) -> Iterator[str]:
    """Returns the words that a setting takes, if it takes only some."""
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield from (str(member) for member in kind)
