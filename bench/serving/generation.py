"""What serving costs over the arithmetic: streams that generate, against the same graphs in a bare loop, in one run.

    python -m bench.serving.generation [--quick]

64 streams against raw onnxruntime, each measured three times in turn. `growth.py` has other numbers of streams.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.load import Load, per_second, put_load
from bench.harness.raw_speed import raw_tokens_per_second
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve

NUM_STREAMS = 64


@dataclass(frozen=True, slots=True)
class Target:
    """A model, how it samples, tokens a stream, and the least share of the raw speed."""

    size: str
    precision: str
    sampling: str
    num_tokens: int
    at_least: float


SAMPLINGS = {"greedy": (0.0, 1.0), "top_p": (0.8, 0.95)}
TARGETS = (
    Target("small", "float32", "greedy", 1500, 0.60),
    Target("medium", "float32", "greedy", 120, 0.90),
    Target("medium", "float32", "top_p", 120, 0.85),
    Target("medium", "int8", "greedy", 300, 0.85),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    parser.add_argument("--threads", type=int, default=1, help="onnxruntime threads, server and bare loop alike")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        for target in TARGETS:
            _hold(target, Path(directory), given.threads, num_rounds=1 if given.quick else 3)


def _hold(target: Target, directory: Path, num_threads: int, *, num_rounds: int) -> None:
    name = f"generation.{target.size}.{target.precision}.{target.sampling}"
    bundle = directory / f"{target.size}-{target.precision}"
    if not bundle.exists():
        bundle = write_reference_bundle(target.size, directory, target.precision)
    temperature, top_p = SAMPLINGS[target.sampling]
    load = Load("generate", NUM_STREAMS, num_tokens=target.num_tokens, temperature=temperature, top_p=top_p)
    shares, speeds, raws = [], [], []
    with serve(bundle, "--threads", str(num_threads)) as server:
        for _ in range(num_rounds):
            raws.append(raw_tokens_per_second(bundle, NUM_STREAMS, num_threads=num_threads))
            speeds.append(per_second(put_load(server.grpc_address, load)))
            raw_after = raw_tokens_per_second(bundle, NUM_STREAMS, num_threads=num_threads)
            shares.append(2 * speeds[-1] / (raws[-1] + raw_after))
    print_figure(f"{name}.raw", statistics.median(raws), "tokens/s")
    print_figure(f"{name}.served", statistics.median(speeds), "tokens/s")
    print_figure(name, statistics.median(shares), "ratio", at_least=target.at_least)


if __name__ == "__main__":
    main()
