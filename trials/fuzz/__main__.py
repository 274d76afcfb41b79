"""Sends 100,000 and more hostile inputs of all kinds: calls, garbage on the ports, files, states, settings."""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.harness.report import print_figure, print_machine
from trials.fuzz.findings import CRASH, HANG, INTERNAL, Report
from trials.fuzz.fuzzing import KINDS, Fuzz, run_fuzz

FIXED_SEED = 9
LEAST_OK = 0.3


def main() -> None:
    given = _parse()
    print_machine()
    seeds = [FIXED_SEED, random.SystemRandom().randrange(100_000)] if given.seed is None else [given.seed]
    directory = Path(tempfile.mkdtemp(prefix="fuzz-"))
    reports = []
    for seed in seeds:
        print_figure("fuzz.seed", seed, "seed")
        reports.append(run_fuzz(Fuzz(seed, given.kinds, given.first, given.inputs), directory / str(seed)))
    sys.exit(0 if print_results(reports) else 1)


def print_results(reports: Sequence[Report]) -> bool:
    """Returns whether nothing was found."""
    counts: Counter[str] = sum((report.num_inputs for report in reports), Counter())
    codes: Counter[str] = sum((report.codes for report in reports), Counter())
    print_figure("fuzz.inputs", counts.total(), "count")
    for kind, count in counts.items():
        print_figure(f"fuzz.{kind}.inputs", count, "count")
    if codes:
        print_figure("fuzz.calls", codes.total(), "count")
        print_figure("fuzz.calls_ok_share", codes["OK"] / codes.total(), "share", at_least=LEAST_OK)
    found = {what: sum(report.count(what) for report in reports) for what in (CRASH, HANG, INTERNAL)}
    print_figure("fuzz.crashes", found[CRASH], "count", at_most=0)
    print_figure("fuzz.hangs", found[HANG], "count", at_most=0)
    print_figure("fuzz.internal_errors", found[INTERNAL], "count", at_most=0)
    return not any(found.values())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="default: a fixed one and a random one")
    parser.add_argument("--kinds", type=_read_kinds, default=tuple(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each kind")
    parser.add_argument("--inputs", type=int, help="how many of each kind; default: what each is worth")
    return parser.parse_args()


def _read_kinds(text: str) -> tuple[str, ...]:
    unknown = set(text.split(",")) - set(KINDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no kind {', '.join(sorted(unknown))}")
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
