"""The command `carousel-train`, from text to a checkpoint: reads the command line, prints, sets the exit code."""

import os
from pathlib import Path
from typing import Annotated

# Threads that spin at OpenMP barriers lose nine tenths of the speed as soon as another program needs a core. The
# runtime reads this when torch is loaded, below.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import typer
from rich.console import Console
from rich.markup import escape

from carousel.bundle.tokenizer import TokenizerKind
from carousel_training.checkpoint import LAST, load_checkpoint
from carousel_training.display import Display
from carousel_training.errors import SettingsError, TrainingError
from carousel_training.fit import Outcome
from carousel_training.interruption import catch_interruption
from carousel_training.processes import join_processes, own_directory
from carousel_training.repeats import LENGTH
from carousel_training.run import Run, resume_run, start_run
from carousel_training.settings import BudgetSettings, Settings
from carousel_training.settings_list import list_settings
from carousel_training.studies.commands import add_studies

EXIT_INTERRUPTED = 130
EXIT_BAD_INPUT = 2

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="The run's directory: checkpoints, tokenizer, log, loss curve.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help="Text file or folder; may be repeated.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this number of optimisation steps.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this number of minutes of training.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue exactly where the run in --out stopped.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the run that --out holds.")] = False,
) -> None:
    """Train a recurrent language model on text; or, with a command below, study the cells.

    Without --text or a config it reads the tales of the brothers Grimm for ten minutes. Ctrl-C saves. --resume
    continues as if nothing had happened, bit for bit on a CPU when the budget is in steps. --max-steps and
    --max-minutes with --resume change the budget, and the learning rate's schedule with it.

    Under `torchrun --nproc-per-node 2 --no-python carousel-train ...` the processes share the lanes of each batch.

    Example: carousel-train --out runs/poems --text poems/ --set model.hidden_size=512 --max-minutes 5
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    if out is None:
        raise typer.BadParameter("a run needs a directory", param_hint="--out")
    with join_processes(os.environ) as group, own_directory(group, out, is_copied=resume) as place:
        console = Console(quiet=not group.is_first)
        try:
            status = console.status("reading the text, learning the vocabulary")
            if resume:
                if config or text or overrides or fresh:
                    raise SettingsError("--resume takes its settings from the checkpoint; leave the other options out")
                with status:
                    run = resume_run(place, Display(console), _new_budget(place, max_steps, max_minutes))
            else:
                settings = Settings.load(config, _overrides(overrides, text, max_steps, max_minutes))
                with status:
                    run = start_run(settings, place, Display(console), is_fresh=fresh)
            _introduce(run, console)
            with catch_interruption() as interruption:
                outcome = run.execute(lambda: interruption.is_requested)
        except TrainingError as error:
            Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
            raise typer.Exit(EXIT_BAD_INPUT) from error
        _conclude(run, outcome, console)


app.command("settings")(list_settings)
add_studies(app)


def main() -> None:
    app()


def _refuse_options(context: typer.Context) -> None:
    """Refuses options before a study's name, where they would have no effect. A study has options of its own."""
    given = [name for name, value in context.params.items() if value]
    if given:
        raise typer.BadParameter(f"put options of {context.invoked_subcommand} after it", param_hint=f"--{given[0]}")


def _overrides(
    given: list[str] | None, text: list[Path] | None, max_steps: int | None, max_minutes: float | None
) -> list[str]:
    """Turns the named flags into overrides, which come last."""
    overrides = list(given or [])
    if text:
        quoted = ", ".join(f"'{path}'" for path in text)
        overrides.append(f"corpus.text=[{quoted}]")
    if max_steps is not None:
        overrides.append(f"budget.max_steps={max_steps}")
    if max_minutes is not None:
        overrides.append(f"budget.max_minutes={max_minutes}")
    return overrides


def _new_budget(out: Path, max_steps: int | None, max_minutes: float | None) -> BudgetSettings | None:
    """Returns the checkpoint's budget with the given bounds in place of its own, or None to leave it as it is."""
    if max_steps is None and max_minutes is None:
        return None
    patience = load_checkpoint(out, LAST).facts["settings"]["budget"]["patience"]
    facts = {"max_steps": max_steps, "max_minutes": max_minutes, "patience": patience}
    return Settings.parse({"budget": facts}).budget


def _introduce(run: Run, console: Console) -> None:
    materials, trainer = run.materials, run.materials.trainer
    console.print(
        f"{materials.corpus.source}: {materials.corpus.num_bytes:,} bytes; {materials.tokenizer.kind} vocabulary of "
        f"{materials.tokenizer.size:,}; {trainer.model.num_parameters:,} parameters; {trainer.compute.describe()}",
        soft_wrap=True,
    )
    words = materials.settings.vocabulary
    if materials.tokenizer.kind == TokenizerKind.WORD and materials.tokenizer.size == words.max_words:
        console.print(
            f"the vocabulary is the {words.max_words:,} commonest words; vocabulary.max_words sets the number",
            soft_wrap=True,
            highlight=False,
        )
    if files := materials.corpus.reading.describe():
        console.print(escape(files), soft_wrap=True, highlight=False)
    console.print(
        f"{materials.share_leaked:.1%} of the validation text stands in the training text, in stretches of "
        f"{LENGTH} characters or more",
        soft_wrap=True,
        highlight=False,
    )
    if trainer.step:
        console.print(f"continuing after step {trainer.step:,}")


def _conclude(run: Run, outcome: Outcome, console: Console) -> None:
    if outcome.is_interrupted:
        command = f"carousel-train --resume --out {run.directory}"
        console.print(
            f"saved after step {run.materials.trainer.step:,}; continue with: [bold]{command}[/]", soft_wrap=True
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    test = run.test_quality()
    if test is not None:
        console.print(f"test: {test.describe()}")
    best = outcome.progress
    console.print(
        f"best after step {best.best_step:,}: {best.best_nats:.4f} nats per token; "
        f"{run.directory} holds the checkpoint, log.jsonl and loss.png",
        soft_wrap=True,
    )
