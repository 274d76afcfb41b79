"""`carousel-train compare`: turns options into a plan, its estimate, its trainings, and the resulting page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from carousel_training.errors import SettingsError
from carousel_training.interruption import Interruption, catch_interruption
from carousel_training.settings import Settings
from carousel_training.studies.comparison.assembly import assemble
from carousel_training.studies.comparison.entries import USUAL, contestants, make_entries
from carousel_training.studies.comparison.figures import Figures
from carousel_training.studies.comparison.page import PAGE_FILE, read_study, write_page
from carousel_training.studies.comparison.page_tables import final_table
from carousel_training.studies.comparison.pictures import plot_tiers
from carousel_training.studies.comparison.plans import DEFAULT_PLAN, PLANS, StudyPlan
from carousel_training.studies.comparison.serving import find_serving_speed
from carousel_training.studies.comparison.study import Estimate, Study, Workers
from carousel_training.studies.comparison.study_text import TextFacts, prepare_text, with_official_split
from carousel_training.studies.comparison.workers import count_cores, worker_processes
from carousel_training.studies.options import (
    OUT,
    QUIET,
    VARIED,
    Overrides,
    Text,
    choose,
    spoken_errors,
    study_console,
    study_settings,
)
from carousel_training.studies.results import make_directory, save_figures

# These differ from the settings' own defaults: characters, which need no large output layer; one layer, and short
# segments in few lanes, since small budgets need many steps; an untied output, which starts to learn sooner; arithmetic
# that is the same on every processor.
COMPARISON = {
    "corpus.test_fraction": 0.1,
    "vocabulary.kind": "character",
    "vocabulary.min_count": 5,
    "model.embedding_size": 64,
    "model.tied": "false",
    "model.dropout": 0.1,
    "batch.num_lanes": 16,
    "batch.segment": 32,
    "compute.device": "cpu",
    "compute.precision": "float32",
    "compute.threads": 1,
}
CHOSEN = ("model.block", "model.hidden_size", "seed")  # by the comparison itself
BUSY = 0.8  # of a core; below it, other work slows the trainings down


def compare_command(
    out: Annotated[Path, typer.Option(help="Trainings, results and picture; existing results are kept.")] = OUT
    / "compare",
    plan_name: Annotated[
        str | None, typer.Option("--plan", help="hour or night: the duration on these cores; by default a short plan.")
    ] = None,
    cells: Annotated[
        str | None, typer.Option(help="Names, separated by commas, such as lstm,mingru+residual; by default all.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Tokens of each final training, by default {DEFAULT_PLAN.tokens:,}.")
    ] = None,
    parameters: Annotated[int, typer.Option(min=1, help="Live parameters of every model, within 2 %.")] = 300_000,
    seeds: Annotated[int | None, typer.Option(min=1, help="Final trainings of each cell.")] = None,
    rates: Annotated[
        int | None, typer.Option(min=1, help="Trials of each cell's search, each with its own rate.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trainings side by side; by default one per core.")] = None,
    page: Annotated[Path | None, typer.Option(help="The page's folder; by default OUT/page.")] = None,
    redraw: Annotated[Path | None, typer.Option(help="Train nothing: rewrite the page of this JSON.")] = None,
    text: Text = None,
    overrides: Overrides = None,
) -> None:
    """Train every cell with the same tokens, text, parameters and search, and group the cells in tiers.

    If interrupted or killed, the same command continues. A folder with train.txt, valid.txt and test.txt is split as it
    is; other text by fractions. If carousel-export is installed, the study measures serving speed too.

    Example: carousel-train compare --plan hour --text wikitext-2/ --out runs/hour --page docs/study
    """
    console, page = study_console(), page or out / "page"
    with spoken_errors(), catch_interruption() as interruption:
        if redraw is not None:
            write_page(read_study(redraw), page)
        else:
            plan = choose_plan(plan_name).with_options(tokens, seeds, rates)
            settings = study_settings(COMPARISON | QUIET, text, overrides or [], (*VARIED, *CHOSEN))
            names = USUAL if cells is None else choose(cells, contestants(), "cell")
            order = (names, parameters, jobs or count_cores())
            figures = _study(console, out, plan, with_official_split(settings), order, interruption)
            _publish(console, figures, out, page)
    console.print(f"{page / PAGE_FILE} is the page", soft_wrap=True, highlight=False)


def choose_plan(name: str | None) -> StudyPlan:
    """Raises SettingsError with the names of all plans."""
    if name is None:
        return DEFAULT_PLAN
    if name not in PLANS:
        raise SettingsError(f"unknown plan {name}; the plans are: {', '.join(PLANS)}")
    return PLANS[name]


def _study(
    console: Console,
    out: Path,
    plan: StudyPlan,
    settings: Settings,
    order: tuple[tuple[str, ...], int, int],
    interruption: Interruption,
) -> Figures:
    """`order` is the cells, their number of parameters and the number of trainings side by side."""
    cells, num_parameters, num_workers = order
    make_directory(out)
    console.print("reading the text", highlight=False)
    facts = prepare_text(settings, out / "text")
    console.print(_describe_text(facts), soft_wrap=True, highlight=False)
    entries = make_entries(cells, settings, num_parameters, facts.vocabulary_size, has_twin=plan.has_twin)
    study = Study(out, out / "text", facts.sha256, plan, entries)
    with worker_processes(num_workers) as executor:
        workers = Workers(executor, num_workers)
        estimate = study.estimate(workers)
        _say_estimate(console, study, estimate, num_workers)
        courses = study.run(
            workers,
            estimate.unit_steps,
            lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False),
            lambda: interruption.is_requested,
        )
    return assemble(study, courses, facts, workers, num_parameters, find_serving_speed())


def _publish(console: Console, figures: Figures, out: Path, page: Path) -> None:
    save_figures(out / "compare.json", figures["cells"])
    write_page(figures, page)
    study = read_study(page / "study.json")
    plot_tiers(study, out / "compare.png")
    console.print(final_table(study), soft_wrap=True, highlight=False, markup=False)
    for cell in figures["cells"]:
        if isinstance(cell["serving"], str):
            console.print(f"{cell['name']}: serving {cell['serving']}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"{out} holds compare.png and compare.json", soft_wrap=True, highlight=False)


def _describe_text(facts: TextFacts) -> str:
    parts = ", ".join(f"{part} {count:,}" for part, count in facts.num_tokens.items())
    state = "de-duplicated" if facts.is_deduplicated else "NOT de-duplicated, since nothing would be left"
    return f"{facts.source}: {parts} tokens of {facts.vocabulary_size:,}, {state}, sha256 {facts.sha256[:16]}"


def _say_estimate(console: Console, study: Study, estimate: Estimate, num_workers: int) -> None:
    for entry, speed in zip(study.entries, estimate.speeds, strict=True):
        width = entry.settings.model.hidden_size
        console.print(f"{entry.name}: width {width}, {speed.training:,.0f} tokens/s of a core", highlight=False)
    tokens = study.plan.mark_steps(estimate.unit_steps)[-1] * study.tokens_per_step
    minutes = estimate.seconds / 60.0
    console.print(
        f"estimate: {minutes:,.1f} minutes for {study.plan.num_jobs(len(study.entries))} trainings, {num_workers} side "
        f"by side; {tokens:,} tokens for each of the final",
        soft_wrap=True,
        highlight=False,
    )
    share = min(speed.core_share for speed in estimate.speeds)
    if share < BUSY:
        console.print(
            f"other work leaves {share:.0%} of a core: as busy as now, it takes {minutes / share:,.1f} minutes",
            soft_wrap=True,
            highlight=False,
        )
