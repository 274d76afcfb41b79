"""`carousel-export`: from a checkpoint to a bundle. It reads the command line, prints, and sets the exit code."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carousel.bundle.manifest import Bundle, Manifest
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import publish
from carousel_export.errors import ExportError, ParityFailed
from carousel_export.parity import ParityReport, check_parity
from carousel_training.checkpoint import load_model
from carousel_training.errors import TrainingError

EXIT_NO_PARITY = 1
EXIT_BAD_INPUT = 2
EXIT_TERMINATED = 143

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="The directory of a training run.")],
    bundle: Annotated[Path, typer.Argument(help="The directory to make; an earlier bundle there is replaced.")],
    name: Annotated[
        str | None, typer.Option(help="What the server calls the model; the directory's name if none.")
    ] = None,
) -> None:
    """Write a run's best checkpoint as a bundle that the server loads.

    The bundle is compared with the trained network before it appears: the same logits, states, greedy text, and the
    same bits whoever shares a batch. Exit code 1 with the figures if they differ, 2 for an unreadable checkpoint.

    Example: carousel-export runs/poems bundles/poems && carousel serve bundles/poems
    """
    signal.signal(signal.SIGTERM, _leave)  # as an exception, so that nothing half-made stays behind
    console, errors = Console(), Console(stderr=True)
    try:
        manifest = export_checkpoint(checkpoint, bundle, name or bundle.resolve().name, console)
    except ParityFailed as error:
        errors.print(f"[red]error:[/] {escape(str(error))}; nothing is published", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_NO_PARITY) from error
    except (TrainingError, ExportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    console.print(f"{bundle}: model {manifest.name}, digest {manifest.digest[:16]}", soft_wrap=True, highlight=False)


def export_checkpoint(checkpoint: Path, bundle: Path, name: str, console: Console) -> Manifest:
    """Load, write, check, publish. Raises CheckpointError, ParityFailed or TargetRefused."""
    trained = load_model(checkpoint)

    def check(written: Bundle) -> None:
        report = check_parity(trained.model, OnnxModel(written), trained.tokenizer.start_id)
        console.print(parity_table(report))
        if not report.holds:
            raise ParityFailed(f"the graphs differ from the trained model: {report.failures()}")

    return publish(trained, bundle, name, check)


def parity_table(report: ParityReport) -> Table:
    """One row per check."""
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
    torch.set_num_threads(1)  # small products; a pool would only wait for itself
    app()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)
