"""What eight-bit products give and cost: raw speed and size over float32's for the medium model, and the perplexity of
a trained one.

    python -m bench.serving.int8 [--bundle-only] [--quick]

Raw speed is one thread; the two precisions are timed in turns, since a machine drifts, and medians are compared. The
trained model learns the package's tales for 1,500 small steps and is read on the part it has not seen;
--bundle-only leaves it out.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from bench.harness.raw_speed import RawLoop
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine

from carousel.bundle.manifest import Bundle
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_export.held_out import HeldOutText, find_text, served_perplexity
from carousel_export.precision import Precision
from carousel_training.checkpoint import TrainedModel, load_best, rebuild_model

STDERR = 2  # the file, whatever sys.stderr is
NUM_TURNS = 7
SECONDS, QUICK_SECONDS = 2.0, 0.5
AT_LEAST = {1: 2.8, 64: 2.5}  # lanes -> speed over float32's
MAX_PERPLEXITY_RATIO = 1.01
TRAINING = (
    "vocabulary.size=2048",
    "model.hidden_size=256",
    "model.embedding_size=256",
    "model.dropout=0.1",
    "batch.num_lanes=16",
    "batch.segment=32",
    "budget.max_steps=1500",
    "evaluation.every_steps=500",
    "compute.precision=float32",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle-only", action="store_true", help="no training, no perplexity")
    parser.add_argument("--quick", action="store_true", help="shorter turns; the figures are rough")
    given = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        measure_bundles(Path(directory), QUICK_SECONDS if given.quick else SECONDS)
        if not given.bundle_only:
            measure_perplexity(Path(directory))


def measure_bundles(directory: Path, seconds: float) -> None:
    """Speed and size of the medium model; a turn of each lasts `seconds`."""
    bundles = {precision: write_reference_bundle("medium", directory, precision) for precision in Precision}
    sizes = {precision: sum(file.stat().st_size for file in bundle.iterdir()) for precision, bundle in bundles.items()}
    print_figure("int8.medium.bundle_over_float32", sizes[Precision.INT8] / sizes[Precision.FLOAT32], "ratio")
    for num_rows, at_least in AT_LEAST.items():
        speeds = raw_speeds(bundles, num_rows, seconds)
        for precision, speed in speeds.items():
            print_figure(f"int8.medium.{precision}.b{num_rows}", speed, "tokens/s")
        ratio = speeds[Precision.INT8] / speeds[Precision.FLOAT32]
        print_figure(f"int8.medium.raw_b{num_rows}", ratio, "ratio", at_least=at_least)


def raw_speeds(bundles: dict[Precision, Path], num_rows: int, seconds: float) -> dict[Precision, float]:
    """Median tokens per second of each, measured in turns after one turn to warm up."""
    loops = {precision: RawLoop(bundle, num_rows, num_threads=1) for precision, bundle in bundles.items()}
    turns = [{precision: loop.measure(seconds) for precision, loop in loops.items()} for _ in range(NUM_TURNS + 1)]
    return {precision: statistics.median(turn[precision] for turn in turns[1:]) for precision in loops}


def measure_perplexity(directory: Path) -> None:
    """Of a network's two bundles on the validation part of its run."""
    checkpoint = load_best(train(directory / "run"))
    trained, text = rebuild_model(checkpoint), find_text(checkpoint)
    found = {precision: bundle_perplexity(trained, precision, text, directory) for precision in Precision}
    for precision, perplexity in found.items():
        print_figure(f"int8.perplexity.{precision}", perplexity, f"perplexity on {len(text.ids_N)} tokens")
    ratio = found[Precision.INT8] / found[Precision.FLOAT32]
    print_figure("int8.perplexity_ratio", ratio, "ratio", at_most=MAX_PERPLEXITY_RATIO)


def train(run: Path) -> Path:
    """An LSTM of 1 x 256 on the text that every Python carries. Its own words go to stderr."""
    command = [str(Path(sys.executable).with_name("carousel-train")), "--out", str(run)]
    options = [word for override in TRAINING for word in ("--set", override)]
    subprocess.run([*command, *options], check=True, stdout=STDERR)
    return run


def bundle_perplexity(trained: TrainedModel, precision: Precision, text: HeldOutText, directory: Path) -> float:
    target = directory / f"trained-{precision}"
    target.mkdir()
    write_files(trained, target, target.name, precision)
    return served_perplexity(OnnxModel(Bundle.load(target)), text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
