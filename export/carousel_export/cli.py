"""The command `carousel-export`, from a checkpoint to a bundle: reads the command line, prints, sets the exit code."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carousel.bundle.chat import ChatFormat
from carousel.bundle.manifest import Bundle, Manifest
from carousel.engine.model import OnnxModel, StepModel
from carousel_export.bundle_writer import publish
from carousel_export.cell_exports import find_quantized
from carousel_export.errors import ChatRefused, ExportError, NoHeldOutText, ParityFailed
from carousel_export.held_out import HeldOutText, compare_perplexity, find_text
from carousel_export.parity import ParityReport, check_parity, check_rounded
from carousel_export.precision import Precision
from carousel_export.starts import MAX_COST, check_starts
from carousel_training.chat import check_chat
from carousel_training.checkpoint import Checkpoint, TrainedModel, load_best, rebuild_model
from carousel_training.errors import TrainingError

EXIT_NO_PARITY = 1
EXIT_BAD_INPUT = 2
EXIT_TERMINATED = 143
MAX_PERPLEXITY_RISE = 0.01


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The bounds that a bundle must keep, and the text that they are measured on (none: the run's validation text).

    `max_start_cost` is how many nats per token a fresh start may cost over carried state. `max_perplexity_rise` is the
    share by which the perplexity of an int8 bundle may rise.
    """

    text: Path | None = None
    max_perplexity_rise: float = MAX_PERPLEXITY_RISE
    max_start_cost: float = MAX_COST


app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="The directory of a training run.")],
    bundle: Annotated[Path, typer.Argument(help="The directory to write; an earlier bundle there is replaced.")],
    name: Annotated[
        str | None, typer.Option(help="The model's name on the server; by default the directory's name.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="int8: a quarter of the size, more than twice as fast; LSTM and GRU only.")
    ] = Precision.FLOAT32,
    text: Annotated[
        Path | None,
        typer.Option(help="Held-out text for fresh starts and int8's perplexity; by default the run's own."),
    ] = None,
    max_perplexity_rise: Annotated[
        float, typer.Option(min=0.0, help="int8 only: refuse if perplexity rises by more than this share.")
    ] = MAX_PERPLEXITY_RISE,
    max_start_cost: Annotated[
        float, typer.Option(min=0.0, help="Refuse if a fresh start costs this many nats per token over carried state.")
    ] = MAX_COST,
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja template over `messages`, for chats; by default the run's own.")
    ] = None,
    chat_stop: Annotated[
        list[str], typer.Option(help="With --chat-template: a text that ends an assistant's turn; may be repeated.")
    ] = [],  # noqa: B006
) -> None:
    """Write a run's best checkpoint as a bundle that the server loads.

    The command compares the bundle with the trained network before it publishes the bundle. Logits, states and greedy
    text must be the same (with int8: perplexity on held-out text must be nearly the same), and each row must be
    bit-identical in any batch. Sessions that begin anywhere in the held-out text must do about as well as a session
    that has read all of it. The exit code is 1, with the figures, if a check fails, and 2 for an unreadable checkpoint.

    Example: carousel-export runs/poems bundles/poems && carousel serve bundles/poems
    """
    signal.signal(signal.SIGTERM, _leave)  # as an exception, so that no partial bundle stays behind
    console, errors = Console(), Console(stderr=True)
    acceptance = Acceptance(text, max_perplexity_rise, max_start_cost)
    try:
        manifest = export_checkpoint(
            checkpoint,
            bundle,
            name or bundle.resolve().name,
            console,
            precision=precision,
            acceptance=acceptance,
            chat=read_chat(chat_template, chat_stop),
        )
    except ParityFailed as error:
        errors.print(f"[red]error:[/] {escape(str(error))}; nothing is published", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_NO_PARITY) from error
    except (TrainingError, ExportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    console.print(f"{bundle}: model {manifest.name}, digest {manifest.digest[:16]}", soft_wrap=True, highlight=False)


def export_checkpoint(
    directory: Path,
    bundle: Path,
    name: str,
    console: Console,
    *,
    precision: Precision = Precision.FLOAT32,
    acceptance: Acceptance = Acceptance(),
    chat: ChatFormat | None = None,
) -> Manifest:
    """Loads, writes, checks and publishes. A `chat` replaces the run's own.

    Raises CheckpointError, PrecisionRefused, NoHeldOutText, ParityFailed or TargetRefused.
    """
    checkpoint = load_best(directory)
    trained = rebuild_model(checkpoint)
    if chat is not None:
        trained = replace(trained, chat=chat)
    judge = _judge(trained, precision, checkpoint, acceptance, console)
    text = _text_for_starts(checkpoint, acceptance, console)

    def check(written: Bundle) -> None:
        served = OnnxModel(written)
        starts = () if text is None else check_starts(served, text, acceptance.max_start_cost)
        report = ParityReport((*judge(served).checks, *starts))
        if report.holds:
            console.print(describe_parity(report), soft_wrap=True, highlight=False)
        else:
            console.print(parity_table(report))
            raise ParityFailed(f"the bundle fails its checks: {report.failures()}")

    return publish(trained, bundle, name, check, precision)


def read_chat(template: Path | None, stops: Sequence[str]) -> ChatFormat | None:
    """Reads and checks a template. Raises ChatRefused."""
    if template is None:
        if stops:
            raise ChatRefused("--chat-stop is for --chat-template")
        return None
    try:
        chat = ChatFormat(template.read_text(encoding="utf-8"), tuple(stops))
        check_chat(chat)
    except OSError as error:
        raise ChatRefused(f"cannot read {template}: {error.strerror or error}") from error
    except ValueError as error:
        raise ChatRefused(f"{template}: {error}") from error
    return chat


def _text_for_starts(checkpoint: Checkpoint, acceptance: Acceptance, console: Console) -> HeldOutText | None:
    """Returns the text to compare starts on, or None where the run's own text is gone. A named text must exist."""
    try:
        return find_text(checkpoint, acceptance.text)
    except NoHeldOutText as error:
        if acceptance.text is not None:
            raise
        console.print(f"fresh starts are not checked: {error}", soft_wrap=True, highlight=False)
        return None


def _judge(
    trained: TrainedModel, precision: Precision, checkpoint: Checkpoint, acceptance: Acceptance, console: Console
) -> Callable[[StepModel], ParityReport]:
    """Returns the comparison for that precision, and finds what it needs before any work is done."""
    if precision is Precision.FLOAT32:
        return lambda served: check_parity(trained.model, served, trained.tokenizer.start_id)
    find_quantized(trained.model.config)
    text = find_text(checkpoint, acceptance.text)

    def judge(served: StepModel) -> ParityReport:
        found = compare_perplexity(trained.model, served, text)
        figures = (
            f"perplexity of float32 {found.float32:.4f}, of {precision} {found.bundle:.4f}, ratio {found.ratio:.5f}"
        )
        console.print(f"{len(text.ids_N):,} tokens of {text.source}: {figures}", soft_wrap=True, highlight=False)
        return check_rounded(served, found, acceptance.max_perplexity_rise)

    return judge


def describe_parity(report: ParityReport) -> str:
    """Describes a report without failures in one line, with its first figure."""
    first = report.checks[0]
    return (
        f"the bundle computes what the trained model computes: {len(report.checks)} checks hold; {first.name} "
        f"{first.value:.2g} of at most {first.bound:.2g}"
    )


def parity_table(report: ParityReport) -> Table:
    """Makes a table with one row per check."""
    table = Table(title="bundle against trained model", title_justify="left", header_style="bold")
    table.add_column("check")
    table.add_column("found", justify="right")
    table.add_column("at most", justify="right")
    table.add_column("")
    for check in report.checks:
        mark = "[green]holds[/]" if check.holds else "[red]fails[/]"
        table.add_row(check.name, f"{check.value:.2g}", f"{check.bound:.2g}", mark)
    return table


def main() -> None:
    torch.set_num_threads(1)  # a pool does not pay for small products
    app()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)
