"""What each cell costs in serving: the speed of its core graph on one thread, at the small size.

python -m bench.serving.cells [--quick]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.harness.reference_models import write_cell_bundle
from bench.harness.report import print_figure, print_machine

from carousel.bundle.manifest import Bundle
from carousel.engine.graph import Execution
from carousel.engine.model import OnnxModel
from carousel_training.cells.registry import CELLS

SECONDS, QUICK_SECONDS = 0.5, 0.1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time; the figures are rough")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        for name in CELLS:
            measure_serving(name, Path(directory), QUICK_SECONDS if given.quick else SECONDS)


def measure_serving(name: str, directory: Path, seconds: float) -> None:
    """Tokens per second of the core graph on one thread: single steps of 1 and 64 lanes, and a prompt of 64 tokens."""
    model = OnnxModel(Bundle.load(write_cell_bundle(name, directory)), Execution(("cpu",), 1))
    for num_rows, num_tokens, label in ((1, 1, "step.1"), (64, 1, "step.64"), (1, 64, "prompt.1")):
        speed = core_tokens_per_second(model, num_rows, num_tokens, seconds)
        print_figure(f"cells.{name}.{label}.tokens_per_second", speed, "tokens/s")


def core_tokens_per_second(model: OnnxModel, num_rows: int, num_tokens: int, seconds: float) -> float:
    ids_BT = np.random.default_rng(0).integers(0, model.vocabulary_size, (num_rows, num_tokens))
    lengths_B = np.full(num_rows, num_tokens, np.int32)
    _, state = model.core(ids_BT, lengths_B, model.layout.initial(num_rows))
    started, num_calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        _, state = model.core(ids_BT, lengths_B, state)
        num_calls += 1
    return num_calls * num_rows * num_tokens / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
