"""What one stream feels: a token in, ten candidates out, again and again, against a bare echo of the same messages in
one run; and while others generate, or while a long prompt is fed.

    python -m bench.serving.latency [--quick]
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness.echo_server import echo_server
from bench.harness.load import NUM_SESSIONS, Load, put_load
from bench.harness.raw_steps import step_seconds
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import serve

LONG_PROMPT = 4096


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    given = parser.parse_args(arguments)
    num_rounds = 1 if given.quick else 3
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        small = write_reference_bundle("small", Path(directory), "float32")
        _measure_round_trip(small, num_rounds, 2000 if given.quick else 5000)
        medium = write_reference_bundle("medium", Path(directory), "float32")
        _measure_company(medium, num_rounds, 60 if given.quick else 200)


def _measure_round_trip(bundle: Path, num_rounds: int, num_messages: int) -> None:
    """One session: the median round trip over what echo, arithmetic and 0.15 ms would take."""
    step = step_seconds(bundle, 1)
    ratios, medians, floors = [], [], []
    with serve(bundle, "--threads", "1") as server, echo_server() as echo:
        for _ in range(num_rounds):
            load = Load("predict", num_tokens=num_messages)
            found = put_load(server.grpc_address, load)
            bare = put_load(echo, replace(load, kind="echo", response_bytes=found["response_bytes"]))
            medians.append(percentile(_gaps(found["seconds"]), 0.5))
            floors.append(percentile(_gaps(bare["seconds"]), 0.5))
            ratios.append(medians[-1] / (floors[-1] + 1.5 * step + 0.15e-3))
    print_figure("latency.small.predict_p50", 1e3 * statistics.median(medians), "ms")
    print_figure("latency.small.echo_p50", 1e3 * statistics.median(floors), "ms")
    print_figure("latency.small.raw_step", 1e3 * step, "ms")
    print_figure("latency.small.predict_over_floor", statistics.median(ratios), "ratio", at_most=1.15)


def _measure_company(bundle: Path, num_rounds: int, num_tokens: int) -> None:
    """The 99th percentile between tokens of 64 streams: over a raw step, and with a long prompt over without."""
    over_step, over_calm = [], []
    with serve(bundle, "--threads", "1") as server:
        for _ in range(num_rounds):
            step = step_seconds(bundle, NUM_SESSIONS)
            load = Load("generate", NUM_SESSIONS, num_tokens=num_tokens)
            calm = percentile(_gaps(put_load(server.grpc_address, load)), 0.99)
            disturbed = put_load(server.grpc_address, replace(load, prompt_tokens=LONG_PROMPT))
            over_step.append(calm / step)
            over_calm.append(percentile(_gaps(disturbed), 0.99) / calm)
    print_figure("latency.medium.raw_step", 1e3 * step, "ms")
    print_figure("latency.medium.p99_over_step", statistics.median(over_step), "ratio", at_most=2.5)
    print_figure("latency.medium.prompt_interference", statistics.median(over_calm), "ratio", at_most=2.0)


def _gaps(times: list[list[float]]) -> list[float]:
    """Between what follows the first; of generations, whose first time is the call's, between tokens."""
    return [b - a for stream in times for a, b in itertools.pairwise(stream[1:])]


if __name__ == "__main__":
    main()
