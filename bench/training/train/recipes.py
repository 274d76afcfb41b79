"""How well the recipes in training/recipes learn within their time, on texts that others have measured, too.

    python -m bench.training.train.recipes [MEASURE ...] --data DIRECTORY [--out DIRECTORY]

The data directory (or CAROUSEL_TEST_DATA) has a folder for each text: tinyshakespeare/input.txt, and wikitext-2/ with
train.txt, valid.txt, test.txt. Without them it says so and measures nothing. The figures count every second of a run
but its last evaluation; the machine should have nothing else to do. The runs stay in --out, with their loss curves.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.report import print_figure, print_machine

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
DATA_VARIABLE = "CAROUSEL_TEST_DATA"
STDERR = 2  # the file, whatever sys.stderr is
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
        SHAKESPEARE, "tinyshakespeare.nats_300s", "nats", "nats", 1.46, "tinyshakespeare.curve_300s"
    ),
    "tinyshakespeare-1200s": Measure(
        SHAKESPEARE, "tinyshakespeare.nats_1200s", "nats", "nats", 1.40, "tinyshakespeare.curve"
    ),
    "wikitext2-1200s": Measure(
        WIKITEXT, "wikitext2.perplexity_1200s", "perplexity", "perplexity", 170.0, "wikitext2.curve"
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)}; all without one")
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA_VARIABLE), help=f"or {DATA_VARIABLE}")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    given = parser.parse_args(arguments)
    unknown = [name for name in given.measures if name not in MEASURES]
    if unknown:
        parser.error(f"there is no measure {unknown[0]}")
    run_measures(given.measures or list(MEASURES), given.data, given.out)


def run_measures(names: Sequence[str], data: Path | None, out: Path) -> None:
    """Each measure whose text is there; of the others, a word on stderr."""
    able = []
    for name in names:
        reason = why_not(MEASURES[name], data)
        if reason is None:
            able.append(name)
        else:
            print(f"{name} is not measured: {reason}", file=sys.stderr)
    if able and data is not None:
        print_machine()
        for name in able:
            print_figures(MEASURES[name], train(name, data, out / name))


def why_not(measure: Measure, data: Path | None) -> str | None:
    """What is lacking; None when nothing is."""
    if data is None:
        return f"no data directory is named, by --data or {DATA_VARIABLE}"
    missing = measure.text.missing(data)
    return f"there is no file {missing[0]}" if missing else None


def train(name: str, data: Path, run: Path) -> list[dict[str, Any]]:
    """The evaluations that `carousel-train` logs, in the order of time. Its own words go to stderr."""
    text = MEASURES[name].text
    options = [word for override in text.locate(data / text.folder) for word in ("--set", override)]
    command = [str(Path(sys.executable).with_name("carousel-train")), "--config", str(RECIPES / f"{name}.toml")]
    subprocess.run([*command, "--out", str(run), "--fresh", *options], check=True, stdout=STDERR)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["kind"] == "evaluation"]


def print_figures(measure: Measure, evaluations: Sequence[dict[str, Any]]) -> None:
    """The curve, a line for each evaluation, then the best of them, which is what the run's checkpoint holds."""
    for evaluation in evaluations:
        unit = f"{measure.unit} after {evaluation['seconds']:.0f} s"
        print_figure(f"train.{measure.curve}", evaluation[measure.key], unit)
    best = min(evaluation[measure.key] for evaluation in evaluations)
    print_figure(f"train.{measure.figure}", best, measure.unit, at_most=measure.at_most)


if __name__ == "__main__":
    main()
