"""The command line of the benches that measure one thing on the small model."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_machine

Size = tuple[int, int]  # rounds, and messages or tokens in each
Measure = Callable[[Path, Path, int, int], None]  # takes the bundle, a folder to work in, and a size


def run_on_small(
    description: str | None,
    arguments: Sequence[str] | None,
    measure: Measure,
    *,
    quick: Size = (1, 300),
    whole: Size = (3, 1000),
) -> None:
    """Reads the command line, prints the machine, and measures in a folder that is then removed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    size = quick if parser.parse_args(arguments).quick else whole
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        measure(write_reference_bundle("small", directory, "float32"), directory, *size)
