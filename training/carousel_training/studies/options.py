"""The shared parts of the studies' commands: options as values, and expected errors as a sentence and an exit code."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from carousel_training.cells.registry import CELLS
from carousel_training.errors import CorpusError, SettingsError, StudyInterrupted, TrainingError
from carousel_training.settings import Settings

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
PIPE_WIDTH = 150
OUT = Path("runs")
QUIET = {"evaluation.every_steps": 1_000_000_000, "evaluation.sample_tokens": 0}
VARIED = ("model.cell", "optimizer.learning_rate", "budget.max_steps", "budget.max_minutes")

Text = Annotated[list[Path] | None, typer.Option(help="Text file or folder; may be repeated.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated.")
]
CellNames = Annotated[str | None, typer.Option("--cells", help="Names, separated by commas; by default all.")]


def study_console() -> Console:
    """Makes a console that is wide enough for the tables without a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


@contextmanager
def spoken_errors() -> Iterator[None]:
    """Turns expected errors into one sentence and an exit code."""
    try:
        yield
    except StudyInterrupted as error:
        Console().print(str(error), soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except TrainingError as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from error


def study_settings(
    defaults: Mapping[str, object], text: list[Path] | None, overrides: list[str], varied: Collection[str] = ()
) -> Settings:
    """Applies the study's defaults, then --text, then --set. --set may not set what the study itself varies."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in varied:
            raise SettingsError(f"{key} is not for --set: the study itself chooses it")
    given = [f"{key}={value}" for key, value in defaults.items()]
    if text:
        given.append(f"corpus.text=[{', '.join(repr(str(path)) for path in text)}]")
    return Settings.load(None, [*given, *overrides])


def choose_cells(given: str | None) -> tuple[str, ...]:
    return tuple(CELLS) if given is None else choose(given, CELLS, "cell")


def choose(given: str, names: Collection[str], what: str) -> tuple[str, ...]:
    """Raises SettingsError with the unknown names."""
    chosen = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in names]
    if unknown or not chosen:
        raise SettingsError(f"unknown {what} {', '.join(unknown) or '(none given)'}; known: {', '.join(names)}")
    return chosen


def parse_gaps(given: str) -> tuple[int, ...]:
    try:
        return tuple(int(gap) for gap in given.split(","))
    except ValueError as error:
        raise SettingsError(f"--gaps must be whole numbers, separated by commas, not {given!r}") from error


def read_text(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise SettingsError("give either the text to inspect or --file")
    if file is None:
        return text or ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file}: {error}") from error
