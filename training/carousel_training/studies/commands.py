"""The studies as sub-commands of `carousel-train`. It reads the command line and prints; what is studied is elsewhere.

Each writes a picture and a JSON of the figures into --out.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape

from carousel_training.checkpoint import load_model
from carousel_training.corpus import read_corpus
from carousel_training.interruption import catch_interruption
from carousel_training.studies.cached_runs import CachedRuns
from carousel_training.studies.comparison import ComparisonPlan, ServingSpeed, compare, ranked, rate_grid
from carousel_training.studies.comparison_report import comparison_table, draw_comparison
from carousel_training.studies.gradient_report import clipping_table, draw_gradients, reach_table, variant_table
from carousel_training.studies.gradients import (
    GradientPlan,
    GradientResult,
    study_forget_bias,
    study_gradients,
    study_recurrent_gain,
)
from carousel_training.studies.inspection import rank_units, record
from carousel_training.studies.inspection_report import draw_inspection, unit_table
from carousel_training.studies.options import (
    DEFAULT_TOKENS,
    choose,
    choose_budget,
    choose_cells,
    parse_gaps,
    read_text,
    spoken_errors,
    study_console,
    study_settings,
)
from carousel_training.studies.recall import DEFAULTS, RecallPlan, RecallResult, study_recall
from carousel_training.studies.recall_report import draw_recall, recall_table
from carousel_training.studies.recall_tasks import TASKS
from carousel_training.studies.results import make_directory, save_figures
from carousel_training.vocabulary import learn_vocabulary

ALL_TASKS, ALL_GAPS = ",".join(TASKS), ",".join(map(str, DEFAULTS.gaps))
SERVING_GROUP = "carousel_training.serving_speed"
# What differs from the settings' own defaults: characters, which need no large output layer; one layer, and short
# segments in few lanes, since small budgets must do many steps; an output of its own, which starts to learn sooner.
COMPARISON = {
    "vocabulary.kind": "character",
    "model.embedding_size": 64,
    "model.tied": "false",
    "model.dropout": 0.1,
    "batch.num_lanes": 16,
    "batch.segment": 32,
}
GRADIENTS = {"vocabulary.kind": "character", "model.hidden_size": 64, "model.embedding_size": 64, "model.dropout": 0.0}
QUIET = {"evaluation.every_steps": 1_000_000_000, "evaluation.sample_tokens": 0}
OUT = Path("runs")
VARIED = ("model.cell", "optimizer.learning_rate", "budget.max_steps", "budget.max_minutes")

Text = Annotated[list[Path] | None, typer.Option(help="Text file or folder; may be repeated.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated.")
]
CellNames = Annotated[str | None, typer.Option("--cells", help="Names with commas between; all if none are given.")]


def add_studies(app: typer.Typer) -> None:
    """Registers the four commands."""
    app.command("compare")(compare_command)
    app.command("gradients")(gradients_command)
    app.command("recall")(recall_command)
    app.command("inspect")(inspect_command)


def compare_command(
    out: Annotated[Path, typer.Option(help="Results and picture; runs that lie there are kept.")] = OUT / "compare",
    cells: CellNames = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Training tokens per run, {DEFAULT_TOKENS:,} if none.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Training minutes per run instead.")] = None,
    parameters: Annotated[int, typer.Option(min=1, help="Of every model, within 2 %.")] = 300_000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per cell after tuning.")] = 2,
    rates: Annotated[int, typer.Option(min=1, help="Learning rates to try, around each cell's own.")] = 3,
    tuning_share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Of the budget, per rate tried.")] = 0.25,
    text: Text = None,
    overrides: Overrides = None,
) -> None:
    """Train every cell with the same budget, data, parameters and tuning effort; several seeds.

    Interrupted, it goes on with the same command. Serving speed is measured where carousel-export is installed.

    Example: carousel-train compare --out runs/cells --tokens 1000000 --seeds 3
    """
    console = study_console()
    with spoken_errors(), catch_interruption() as interruption:
        settings = study_settings(COMPARISON | QUIET, text, overrides or [], (*VARIED, "model.hidden_size", "seed"))
        settings = settings.model_copy(update={"budget": choose_budget(tokens, minutes, settings.batch)})
        plan = ComparisonPlan(settings, choose_cells(cells), parameters, seeds, rate_grid(rates), tuning_share)
        make_directory(out)
        corpus = read_corpus(settings.corpus)
        vocabulary_size = learn_vocabulary(corpus.train, settings.vocabulary).size
        runs = CachedRuns(out / "runs", corpus.digest, plan.num_runs, console, lambda: interruption.is_requested)
        results = compare(plan, runs, vocabulary_size, _serving_speed())
        save_figures(out / "compare.json", [result.as_json() for result in ranked(results)])
        title = f"{len(results)} cells of about {parameters:,} parameters on {corpus.source}, seeds: {seeds}"
        draw_comparison(results, title, out / "compare.png")
    console.print(comparison_table(results))
    for result in results:
        if isinstance(result.serving, str):
            console.print(f"{result.cell}: serving {escape(result.serving)}", soft_wrap=True, highlight=False)
    _conclude(console, out, "compare")


def gradients_command(
    out: Annotated[Path, typer.Option(help="Picture and figures.")] = OUT / "gradients",
    cells: CellNames = None,
    distance: Annotated[int, typer.Option(min=1, help="The largest k.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Of the short training, once clipped and once not.")] = 200,
    text: Text = None,
    overrides: Overrides = None,
) -> None:
    """How far back a loss reaches: the norm of dL/dh(t-k) for every cell, fresh and trained, clipped and not.

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
        draw_gradients(results, (forget, gains), settings.optimizer.clip_norm, out / "gradients.png")
    distances = sorted({max(distance // 10, 1), max(distance // 3, 1), distance})
    console.print(reach_table(results, distances))
    console.print(clipping_table(results, settings.optimizer.clip_norm))
    console.print(variant_table(forget, gains, distances))
    _conclude(console, out, "gradients")


def recall_command(
    out: Annotated[Path, typer.Option(help="Picture and figures.")] = OUT / "recall",
    cells: CellNames = None,
    tasks: Annotated[str, typer.Option(help="Names with commas between.")] = ALL_TASKS,
    gaps: Annotated[str, typer.Option(help="Growing numbers of steps, commas between.")] = ALL_GAPS,
    hidden_size: Annotated[int, typer.Option(min=1)] = DEFAULTS.hidden_size,
    window: Annotated[int, typer.Option(min=1, help="Of the time-delay network.")] = DEFAULTS.window,
    max_steps: Annotated[int, typer.Option(min=1, help="Per task and cell.")] = DEFAULTS.max_steps,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULTS.seed,
) -> None:
    """What a cell still knows after a gap: copy, adding, bracket matching, subject-verb agreement.

    The gap grows as a cell solves it; then the cell answers at all gaps. No text is needed.

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
        draw_recall(results, out / "recall.png")
    console.print(recall_table(results))
    _conclude(console, out, "recall")


def inspect_command(
    checkpoint: Annotated[Path, typer.Option(help="The directory of a training run.")],
    out: Annotated[Path | None, typer.Option(help="Picture and figures; beside the checkpoint if not given.")] = None,
    text: Annotated[str | None, typer.Argument(help="The text to read.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read this file instead.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Units to show.")] = 20,
) -> None:
    """What gates and cells do over a text, as a heat map, and which units switch most sharply.

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
        draw_inspection(
            recording, units[:top], f"{checkpoint.name}: {len(units):,} units that switch", out / "inspect.png"
        )
    console.print(unit_table(recording, units[:top]))
    _conclude(console, out, "inspect")


def _serving_speed() -> ServingSpeed | None:
    """What the export package registers; None where its libraries are not installed."""
    for entry in entry_points(group=SERVING_GROUP):
        try:
            measure: ServingSpeed = entry.load()
            return measure
        except ImportError:
            continue
    return None


def _conclude(console: Console, out: Path, name: str) -> None:
    console.print(f"{out} holds {name}.png and {name}.json", soft_wrap=True, highlight=False)
