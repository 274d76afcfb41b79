"""Whether throughput holds as streams grow in number: the small model's generate, 1 to 512 of them.

    python -m bench.serving.growth [--quick]

Three times each, of which the median counts.
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.load import Load, per_second, processor_seconds, put_load, read_metric, seconds_of
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import ServerProcess, serve

STREAMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Row:
    """What one load saw. Times between tokens in seconds, processor time of the server in cores."""

    tokens_per_second: float
    between_p50: float
    between_p99: float
    server_cpu: float
    lanes_per_step: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        bundle = write_reference_bundle("small", Path(directory), "float32")
        measure_growth(bundle, 200 if given.quick else 1000, num_rounds=1 if given.quick else 3)


def measure_growth(bundle: Path, num_tokens: int, *, num_rounds: int) -> None:
    """One row for each number of streams, of the rounds the one of median speed; the figure is how far throughput ever
    falls below what fewer streams reached."""
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


def _measure_row(server: ServerProcess, load: Load) -> Row:
    pid = server.process.pid
    cpu, lanes, steps = processor_seconds(pid), *_lanes(server)
    times = put_load(server.grpc_address, load)
    cpu, more_lanes, more_steps = processor_seconds(pid) - cpu, *_lanes(server)
    between = [b - a for stream in times for a, b in itertools.pairwise(stream[1:])]
    return Row(
        per_second(times),
        percentile(between, 0.5),
        percentile(between, 0.99),
        cpu / seconds_of(times),
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


if __name__ == "__main__":
    main()
