"""The studies as sub-commands of `carousel-train`: read the command line and print. Other modules do the studies.

Each command writes a picture and a JSON of the figures to --out.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from carousel_training.checkpoint import load_model
from carousel_training.studies.compare_command import compare_command
from carousel_training.studies.gradient_report import clipping_table, plot_gradients, reach_table, variant_table
from carousel_training.studies.gradients import (
    GradientPlan,
    GradientResult,
    study_forget_bias,
    study_gradients,
    study_recurrent_gain,
)
from carousel_training.studies.inspection import rank_units, record
from carousel_training.studies.inspection_report import plot_inspection, unit_table
from carousel_training.studies.options import (
    OUT,
    QUIET,
    VARIED,
    CellNames,
    Overrides,
    Text,
    choose,
    choose_cells,
    parse_gaps,
    read_text,
    spoken_errors,
    study_console,
    study_settings,
)
from carousel_training.studies.recall import DEFAULTS, RecallPlan, RecallResult, study_recall
from carousel_training.studies.recall_report import plot_recall, recall_table
from carousel_training.studies.recall_tasks import TASKS
from carousel_training.studies.results import make_directory, save_figures

ALL_TASKS, ALL_GAPS = ",".join(TASKS), ",".join(map(str, DEFAULTS.gaps))
GRADIENTS = {"vocabulary.kind": "character", "model.hidden_size": 64, "model.embedding_size": 64, "model.dropout": 0.0}


def add_studies(app: typer.Typer) -> None:
    """Registers the four commands."""
    app.command("compare")(compare_command)
    app.command("gradients")(gradients_command)
    app.command("recall")(recall_command)
    app.command("inspect")(inspect_command)


def gradients_command(
    out: Annotated[Path, typer.Option(help="Picture and figures.")] = OUT / "gradients",
    cells: CellNames = None,
    distance: Annotated[int, typer.Option(min=1, help="The largest k.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the short training, clipped and not.")] = 200,
    text: Text = None,
    overrides: Overrides = None,
) -> None:
    """Measure how far back a loss reaches: the norm of dL/dh(t-k) for every cell, before and after training.

    Example: carousel-train gradients --out runs/wide --set model.hidden_size=128
    """
    console = study_console()
    with spoken_errors():
        settings = study_settings(GRADIENTS | QUIET | {"budget.max_steps": steps}, text, overrides or [], VARIED)
        plan = GradientPlan(settings, choose_cells(cells), distance)
        make_directory(out)

        def report(result: GradientResult) -> None:
            console.print(f"{result.cell}: {result.with_clip.final_nats:.3f} nats after {steps} steps", highlight=False)

        results = study_gradients(plan, report)
        forget, gains = study_forget_bias(plan), study_recurrent_gain(plan)
        figures = {
            "cells": [result.as_json() for result in results],
            "lstm_forget_bias": {bias: reach.as_json() for bias, reach in forget.items()},
            "elman_recurrent_gain": {gain: reach.as_json() for gain, reach in gains.items()},
        }
        save_figures(out / "gradients.json", figures)
        plot_gradients(results, (forget, gains), settings.optimizer.clip_norm, out / "gradients.png")
    distances = sorted({max(distance // 10, 1), max(distance // 3, 1), distance})
    console.print(reach_table(results, distances))
    console.print(clipping_table(results, settings.optimizer.clip_norm))
    console.print(variant_table(forget, gains, distances))
    _conclude(console, out, "gradients")


def recall_command(
    out: Annotated[Path, typer.Option(help="Picture and figures.")] = OUT / "recall",
    cells: CellNames = None,
    tasks: Annotated[str, typer.Option(help="Names, separated by commas.")] = ALL_TASKS,
    gaps: Annotated[str, typer.Option(help="Growing numbers of steps, separated by commas.")] = ALL_GAPS,
    hidden_size: Annotated[int, typer.Option(min=1)] = DEFAULTS.hidden_size,
    window: Annotated[int, typer.Option(min=1, help="The time-delay network's window.")] = DEFAULTS.window,
    max_steps: Annotated[int, typer.Option(min=1, help="Most steps per task and cell.")] = DEFAULTS.max_steps,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULTS.seed,
) -> None:
    """What a cell still knows after a gap: copy, adding, bracket matching, subject-verb agreement.

    The gap grows as a cell solves it; then the cell answers at all gaps. The command needs no text.

    Example: carousel-train recall --out runs/far --cells elman,lstm,tdnn --gaps 4,16,64,256
    """
    console = study_console()
    with spoken_errors():
        plan = RecallPlan(gaps=parse_gaps(gaps), hidden_size=hidden_size, window=window, max_steps=max_steps, seed=seed)
        make_directory(out)

        def report(result: RecallResult) -> None:
            console.print(
                f"{result.task}, {result.cell}: solved to gap {result.solved_gap} in {result.num_steps:,} steps",
                highlight=False,
            )

        results = study_recall(choose(tasks, TASKS, "task"), choose_cells(cells), plan, report)
        save_figures(out / "recall.json", [result.as_json() for result in results])
        plot_recall(results, out / "recall.png")
    console.print(recall_table(results))
    _conclude(console, out, "recall")


def inspect_command(
    checkpoint: Annotated[Path, typer.Option(help="The directory of a training run.")],
    out: Annotated[Path | None, typer.Option(help="Picture and figures; by default beside the checkpoint.")] = None,
    text: Annotated[str | None, typer.Argument(help="The text to read.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read this file instead.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Units to show.")] = 20,
) -> None:
    """Show gates and cells over a text as a heat map, and rank the units that switch most sharply.

    Example: carousel-train inspect "if (a[i] > 0) { return b; }" --checkpoint runs/code
    """
    console = study_console()
    with spoken_errors():
        torch.set_num_threads(1)  # single steps of small products
        recording, out = record(load_model(checkpoint), read_text(text, file)), out or checkpoint
        make_directory(out)
        units = rank_units(recording)
        figures = {"tokens": recording.tokens, "nats": recording.nats, "units": [unit.as_json() for unit in units]}
        save_figures(out / "inspect.json", figures)
        plot_inspection(
            recording, units[:top], f"{checkpoint.name}: {len(units):,} units that switch", out / "inspect.png"
        )
    console.print(unit_table(recording, units[:top]))
    _conclude(console, out, "inspect")


def _conclude(console: Console, out: Path, name: str) -> None:
    console.print(f"{out} holds {name}.png and {name}.json", soft_wrap=True, highlight=False)
