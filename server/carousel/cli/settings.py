"""`carousel settings`: lists the settings that `carousel.settings` declares."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from carousel.cli.connection import AsJson
from carousel.settings import GROUPS, Settings

_HOW = "Set one with --set NAME=VALUE, or in the environment as CAROUSEL_NAME, in capitals; the command line wins."
_MIN_MEANING = 24  # columns; in a narrower terminal the meaning goes below its setting


@dataclass(frozen=True, slots=True)
class Setting:
    group: str
    name: str
    environment: str
    default: str
    meaning: str


def settings(as_json: AsJson = False) -> None:
    """List every setting: name, default, meaning."""
    found = tuple(_describe_all())
    if as_json:
        for setting in found:
            print(json.dumps(asdict(setting)))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(format_settings(found, width)))


def format_settings(settings: Iterable[Setting], width: int | None) -> Iterator[str]:
    """Yields lines under a heading for each group. Names are never cut; without `width` each setting is one line, for
    searching."""
    found = tuple(settings)
    names, defaults = max(len(one.name) for one in found), max(len(one.default) for one in found)
    group = ""
    for setting in found:
        if setting.group != group:
            yield from ("", setting.group) if group else (setting.group,)
            group = setting.group
        yield from _format(f"  {setting.name:<{names}}  {setting.default:<{defaults}}  ", setting.meaning, width)
    yield from ("", _HOW)


def _format(head: str, meaning: str, width: int | None) -> Iterator[str]:
    """Yields the meaning beside the head, wrapped in its own column, or below it where space is short."""
    if width is None:
        yield head + meaning
    elif width - len(head) < _MIN_MEANING:
        yield head.rstrip()
        yield from textwrap.wrap(meaning, max(width, _MIN_MEANING), initial_indent="      ", subsequent_indent="      ")
    else:
        yield from textwrap.wrap(meaning, width, initial_indent=head, subsequent_indent=" " * len(head))


def _describe_all() -> Iterator[Setting]:
    group = ""
    for name, field in Settings.model_fields.items():
        group = GROUPS.get(name, group)
        yield Setting(group, name, f"CAROUSEL_{name.upper()}", _format_default(field.default), field.description or "")


def _format_default(value: object) -> str:
    """Returns the default in the form that `--set` takes, or `none`."""
    if value is None or value == "" or value == ():
        return "none"
    match value:
        case tuple():
            return ",".join(map(str, value))
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case _:
            return str(value)
