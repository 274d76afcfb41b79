"""A random search around a recipe: each trial has a quarter of its time and is judged on a tenth of the training text.

    python -m bench.training.train.search MEASURE --data DIRECTORY [--trials N] [--first N] [--set KEY=VALUE]

Trial 0 is the recipe as it is; each other one draws about a third of the settings anew. No trial reads the validation
text. Trials run side by side, one on each core, and their time is core seconds. Each trial is a line on stdout; --first
goes on with a search that was stopped.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.report import print_figure, print_machine
from bench.training.train.recipes import DATA_VARIABLE, MEASURES, RECIPES, WIKITEXT, why_not
from bench.training.train.timed_run import train_side_by_side

from carousel_training.settings import Settings
from carousel_training.studies.comparison.workers import count_cores

HELD_OUT = 0.1
DRAWN = 0.35  # the chance that a trial changes a setting
AT_THE_END = 10**9  # steps between evaluations: only the last one counts
Draw = Callable[[random.Random], float | int | str]


def uniform(low: float, high: float) -> Draw:
    return lambda rng: round(rng.uniform(low, high), 3)


def log_uniform(low: float, high: float) -> Draw:
    return lambda rng: float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")


def choice(*values: float | int | str) -> Draw:
    return lambda rng: rng.choice(values)


CHARACTERS: Mapping[str, Draw] = {
    "model.hidden_size": choice(256, 320, 448),
    "model.embedding_size": choice(32, 96, 128),
    "model.ngram_order": choice(3, 5),
    "model.ngram_buckets": choice(4096, 16384),
    "model.ngram_dropout": uniform(0.3, 0.8),
    "model.output_dropout": uniform(0.1, 0.5),
    "model.weight_drop": uniform(0.0, 0.4),
    "optimizer.learning_rate": log_uniform(7e-3, 3e-2),
    "optimizer.matrix_learning_rate": log_uniform(0.01, 0.04),
    "optimizer.weight_decay": log_uniform(0.01, 0.3),
    "optimizer.matrix_weight_decay": log_uniform(0.003, 0.1),
    "optimizer.matrix_iterations": choice(3, 4),
    "optimizer.averaging": choice("tail"),
    "optimizer.average_from": choice(0.8, 0.9),
    "batch.num_lanes": choice(32, 96),
    "batch.segment": choice(48, 64),
}
WORDS: Mapping[str, Draw] = {
    "model.hidden_size": choice(384, 640),
    "model.embedding_size": choice(192, 320),
    "model.input_dropout": uniform(0.1, 0.5),
    "model.output_dropout": uniform(0.2, 0.6),
    "model.embedding_dropout": uniform(0.02, 0.2),
    "model.weight_drop": uniform(0.1, 0.4),
    "optimizer.learning_rate": log_uniform(2e-3, 1e-2),
    "optimizer.weight_decay": log_uniform(0.01, 0.3),
    "optimizer.averaging": choice("tail"),
    "optimizer.average_from": choice(0.8, 0.9),
    "batch.num_lanes": choice(32, 48),
    "batch.segment": choice(32, 64),
    "output.num_negatives": choice(1500, 5000),
}
SPACES = {"tinyshakespeare-300s": CHARACTERS, "tinyshakespeare-1200s": CHARACTERS, "wikitext2-1200s": WORDS}


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a search. Its number is the seed of its choices and of its run."""

    number: int
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial reached: nats on the held-out tenth, after so many tokens and core seconds."""

    nats: float
    tokens: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", metavar="MEASURE", choices=list(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA_VARIABLE), help=f"or {DATA_VARIABLE}")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial")
    parser.add_argument("--share", type=float, default=0.25, help="of the recipe's time, for each trial")
    parser.add_argument("--workers", type=int, default=count_cores())
    parser.add_argument("--set", action="append", default=[], dest="fixed", metavar="KEY=VALUE", help="in every trial")
    given = parser.parse_args(arguments)
    reason = why_not(MEASURES[given.measure], given.data)
    if reason is not None:
        print(f"{given.measure} is not searched: {reason}", file=sys.stderr)
        return
    trials = [
        plan_trial(given.measure, number, given.fixed) for number in range(given.first, given.first + given.trials)
    ]
    print_machine()
    best = math.inf
    with tempfile.TemporaryDirectory() as folder:
        text = cut_text(given.measure, given.data, Path(folder))
        common = [*text, f"budget.max_minutes={minutes(given)}"]
        for trial, result in run_trials(given.measure, trials, common, Path(folder), given.workers):
            print(json.dumps(describe(trial, result)), flush=True)
            best = min(best, result.nats)
    print_figure(f"train.search.{given.measure}", best, "nats")


def minutes(given: argparse.Namespace) -> float:
    whole = Settings.load(RECIPES / f"{given.measure}.toml").budget.max_minutes
    assert whole is not None
    return float(whole * given.share)


def plan_trial(measure: str, number: int, fixed: Sequence[str]) -> Trial:
    """Draws some of the recipe's settings anew; trial 0 changes nothing. `fixed` overrides hold in every trial."""
    rng = random.Random(number)
    drawn = {key: draw(rng) for key, draw in SPACES[measure].items() if rng.random() < DRAWN and number > 0}
    return Trial(number, (*(f"{key}={value}" for key, value in drawn.items()), *fixed))


def cut_text(measure: str, data: Path, folder: Path) -> list[str]:
    """Writes the training text without its last tenth, and the tenth; returns the overrides that name them."""
    text = MEASURES[measure].text
    source = (data / text.folder / text.files[0]).read_text(encoding="utf-8")
    if text is not WIKITEXT:
        source = source[: int(len(source) * (1.0 - HELD_OUT))]
    cut = source.rfind("\n", 0, int(len(source) * (1.0 - HELD_OUT))) + 1
    for name, part in (("train", source[:cut]), ("valid", source[cut:])):
        (folder / f"{name}.txt").write_text(part, encoding="utf-8")
    return [f"corpus.{name}=['{folder / name}.txt']" for name in ("train", "valid")]


def run_trials(
    measure: str, trials: Sequence[Trial], common: Sequence[str], folder: Path, num_workers: int
) -> Iterator[tuple[Trial, Result]]:
    """Runs the trials, `num_workers` at a time, and yields each one as it ends."""
    jobs = {trial: (settings_of(measure, trial, common), folder / str(trial.number)) for trial in trials}
    for trial, evaluations in train_side_by_side(jobs, num_workers):
        last = evaluations[-1]
        yield trial, Result(last["nats"], last["tokens"], last["seconds"])


def settings_of(measure: str, trial: Trial, common: Sequence[str]) -> Settings:
    quiet = [f"evaluation.every_steps={AT_THE_END}", "compute.threads=1", f"seed={trial.number}"]
    return Settings.load(RECIPES / f"{measure}.toml", [*trial.overrides, *common, *quiet])


def describe(trial: Trial, result: Result) -> dict[str, Any]:
    facts = {"nats": round(result.nats, 4), "tokens": result.tokens, "seconds": round(result.seconds, 1)}
    return {"trial": trial.number, **facts, "overrides": list(trial.overrides)}


if __name__ == "__main__":
    main()
