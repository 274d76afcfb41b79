"""What serving costs over the arithmetic: streams that generate, against the same graphs in a bare loop, in one run.

    python -m bench.serving.generation [targets] [table] [--quick]

`targets` holds 64 streams against raw onnxruntime, each measured three times in turn; `table` grows the small model's
streams from 1 to 512, three times, and takes the median.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.clients.streams import Load
from bench.harness.load import processor_seconds, put_load, read_metric
from bench.harness.raw_speed import raw_tokens_per_second
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import ServerProcess, serve

NUM_STREAMS = 64
STREAMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


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
    parser.add_argument("parts", nargs="*", choices=["targets", "table", []], help="default: both")
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    parser.add_argument("--threads", type=int, default=1, help="onnxruntime threads, server and bare loop alike")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        if "targets" in given.parts or not given.parts:
            for target in TARGETS:
                _hold(target, Path(directory), given.threads, num_rounds=1 if given.quick else 3)
        if "table" in given.parts or not given.parts:
            _grow(Path(directory), 200 if given.quick else 1000, num_rounds=1 if given.quick else 3)


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
            speeds.append(_tokens_per_second(put_load(server.grpc_address, load)))
            raw_after = raw_tokens_per_second(bundle, NUM_STREAMS, num_threads=num_threads)
            shares.append(2 * speeds[-1] / (raws[-1] + raw_after))
    print_figure(f"{name}.raw", statistics.median(raws), "tokens/s")
    print_figure(f"{name}.served", statistics.median(speeds), "tokens/s")
    print_figure(name, statistics.median(shares), "ratio", at_least=target.at_least)


def _grow(directory: Path, num_tokens: int, *, num_rounds: int) -> None:
    """One row for each number of streams, of the rounds the one of median speed; the figure is how far throughput ever
    falls below what fewer streams reached."""
    bundle = directory / "small-float32"
    if not bundle.exists():
        bundle = write_reference_bundle("small", directory, "float32")
    rows: dict[int, list[Row]] = {num_streams: [] for num_streams in STREAMS}
    with serve(bundle, "--threads", "1") as server:
        for _, num_streams in itertools.product(range(num_rounds), STREAMS):
            tokens = max(num_tokens * 8 // max(8, num_streams), num_tokens * 2 // 5)  # a call's own cost is not meant
            rows[num_streams].append(_measure_row(server, Load("generate", num_streams, num_tokens=tokens)))
    best = worst = 0.0
    for num_streams, measured in rows.items():
        row = sorted(measured, key=lambda one: one.tokens_per_second)[num_rounds // 2]
        _print_row(num_streams, row)
        best = max(best, row.tokens_per_second)
        worst = min(worst or 1.0, row.tokens_per_second / best)
    print_figure("growth.min_over_peak", worst, "ratio", at_least=0.9)


@dataclass(frozen=True, slots=True)
class Row:
    """What one load saw. Times between tokens in seconds, processor time of the server in cores."""

    tokens_per_second: float
    between_p50: float
    between_p99: float
    server_cpu: float
    lanes_per_step: float


def _measure_row(server: ServerProcess, load: Load) -> Row:
    pid = server.process.pid
    cpu, lanes, steps = processor_seconds(pid), *_lanes(server)
    times = put_load(server.grpc_address, load)
    cpu, more_lanes, more_steps = processor_seconds(pid) - cpu, *_lanes(server)
    between = [b - a for stream in times for a, b in itertools.pairwise(stream[1:])]
    return Row(
        _tokens_per_second(times),
        percentile(between, 0.5),
        percentile(between, 0.99),
        cpu / (_last(times) - _first(times)),
        (more_lanes - lanes) / max(1.0, more_steps - steps),
    )


def _print_row(num_streams: int, row: Row) -> None:
    name = f"growth.streams_{num_streams}"
    print_figure(f"{name}.tokens", row.tokens_per_second, "tokens/s")
    print_figure(f"{name}.between_tokens_p50", 1e3 * row.between_p50, "ms")
    print_figure(f"{name}.between_tokens_p99", 1e3 * row.between_p99, "ms")
    print_figure(f"{name}.server_cpu", row.server_cpu, "cores")
    print_figure(f"{name}.lanes_per_step", row.lanes_per_step, "lanes")


def _lanes(server: ServerProcess) -> tuple[float, float]:
    """Lanes of all steps so far, added up, and the number of steps."""
    return read_metric(server, "carousel_step_lanes_sum"), read_metric(server, "carousel_step_lanes_count")


def _tokens_per_second(times: list[list[float]]) -> float:
    return sum(len(stream) - 1 for stream in times) / (_last(times) - _first(times))


def _first(times: list[list[float]]) -> float:
    return min(stream[0] for stream in times)


def _last(times: list[list[float]]) -> float:
    return max(stream[-1] for stream in times)


if __name__ == "__main__":
    main()
