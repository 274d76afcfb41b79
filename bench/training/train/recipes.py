"""How well the recipes in training/recipes learn within their time, on texts that others have measured, too.

    python -m bench.training.train.recipes [MEASURE ...] --data DIRECTORY [--out DIRECTORY] [--seeds N]

The data directory (or CAROUSEL_TEST_DATA) has a folder for each text: tinyshakespeare/input.txt, and wikitext-2/ with
train.txt, valid.txt, test.txt. Without them it says so and measures nothing. A recipe has one thread, and its time is
core seconds, each of a run but its last evaluation; the seeds run side by side, one on each core. A figure is the mean
over the seeds of the last evaluation: none is chosen. The runs stay in --out, with their loss curves.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.harness.report import print_figure, print_machine
from bench.training.train.timed_run import Evaluations, train_side_by_side

from carousel_training.settings import Settings
from carousel_training.studies.comparison.workers import count_cores

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
DATA_VARIABLE = "CAROUSEL_TEST_DATA"
Overrides = list[str]


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus under the data directory; `files` are its parts, or one file to be split."""

    folder: str
    files: tuple[str, ...]
    locate: Callable[[Path], Overrides]

    def missing(self, data: Path) -> list[Path]:
        return [path for name in self.files if not (path := data / self.folder / name).is_file()]


@dataclass(frozen=True, slots=True)
class Measure:
    """A recipe of the same name as the measure, and the figures that its log gives, under `train`."""

    text: Text
    figure: str
    key: str  # of an evaluation in the log
    unit: str
    at_most: float
    curve: str


def _shakespeare(folder: Path) -> Overrides:
    return [f"corpus.text=['{folder / 'input.txt'}']", "corpus.valid_fraction=0.1"]


def _wikitext(folder: Path) -> Overrides:
    return [f"corpus.{part}=['{folder / part}.txt']" for part in ("train", "valid", "test")]


SHAKESPEARE = Text("tinyshakespeare", ("input.txt",), _shakespeare)
WIKITEXT = Text("wikitext-2", ("train.txt", "valid.txt", "test.txt"), _wikitext)
MEASURES = {
    "tinyshakespeare-300s": Measure(
        SHAKESPEARE, "tinyshakespeare.nats_300s", "nats", "nats", 1.42, "tinyshakespeare.curve_300s"
    ),
    "tinyshakespeare-1200s": Measure(
        SHAKESPEARE, "tinyshakespeare.nats_1200s", "nats", "nats", 1.39, "tinyshakespeare.curve"
    ),
    "wikitext2-1200s": Measure(
        WIKITEXT, "wikitext2.perplexity_1200s", "perplexity", "perplexity", 105.0, "wikitext2.curve"
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)}; all without one")
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA_VARIABLE), help=f"or {DATA_VARIABLE}")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=count_cores(), help="runs side by side")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.measures if name not in MEASURES]
    if unknown:
        parser.error(f"there is no measure {unknown[0]}")
    able = choose_measures(given.measures or list(MEASURES), given.data)
    if able:
        print_machine()
    for name in able:
        print_figures(MEASURES[name], train_seeds(name, given.data, given.out / name, given.seeds, given.workers))


def choose_measures(names: Sequence[str], data: Path | None) -> list[str]:
    """Returns the measures whose text is there. Of each other one, says on stderr what is missing."""
    able = []
    for name in names:
        reason = why_not(MEASURES[name], data)
        if reason is None:
            able.append(name)
        else:
            print(f"{name} is not measured: {reason}", file=sys.stderr)
    return able


def why_not(measure: Measure, data: Path | None) -> str | None:
    """What is lacking; None when nothing is."""
    if data is None:
        return f"no data directory is named, by --data or {DATA_VARIABLE}"
    missing = measure.text.missing(data)
    return f"there is no file {missing[0]}" if missing else None


def train_seeds(name: str, data: Path, out: Path, num_seeds: int, num_workers: int) -> list[Evaluations]:
    """Trains the recipe with each seed, and returns their evaluations in the order of the seeds."""
    text = MEASURES[name].text
    overrides = text.locate(data / text.folder)
    jobs = {
        seed: (Settings.load(RECIPES / f"{name}.toml", [*overrides, f"seed={seed}"]), out / f"seed-{seed}")
        for seed in range(num_seeds)
    }
    found = dict(train_side_by_side(jobs, num_workers))
    return [found[seed] for seed in range(num_seeds)]


def print_figures(measure: Measure, runs: Sequence[Evaluations]) -> None:
    """Prints the curve of the first seed, the last evaluation of each, and their mean, held against its aim."""
    for evaluation in runs[0]:
        unit = f"{measure.unit} after {evaluation['seconds']:.0f} s"
        print_figure(f"train.{measure.curve}", evaluation[measure.key], unit)
    last: list[dict[str, Any]] = [evaluations[-1] for evaluations in runs]
    for seed, evaluation in enumerate(last):
        unit = f"{measure.unit}, {evaluation['tokens']} tokens"
        print_figure(f"train.{measure.figure}.seed_{seed}", evaluation[measure.key], unit)
    mean = fmean(evaluation[measure.key] for evaluation in last)
    print_figure(f"train.{measure.figure}", mean, measure.unit, at_most=measure.at_most)


if __name__ == "__main__":
    main()
