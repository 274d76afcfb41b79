"""What serving costs over the arithmetic: 1, 8 and 64 streams against the same graphs in a bare loop, in the same run.

python -m bench.serving [small] [medium] [--bundle DIRECTORY]
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.raw_speed import raw_tokens_per_second
from bench.reference_models import SIZES, write_reference_bundle
from bench.report import percentile, print_figure, print_machine
from bench.server_process import ServerProcess, serve

STREAMS = (1, 8, 64)
NUM_TOKENS = {"small": 400, "medium": 40}
SAMPLINGS = {"greedy": (0.0, 1.0), "top_p": (0.8, 0.95)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=[*SIZES, []], help="default: all")
    parser.add_argument("--bundle", type=Path, help="measure this bundle instead")
    parser.add_argument("--threads", type=int, default=1, help="onnxruntime threads, server and bare loop alike")
    given = parser.parse_args()
    print_machine()
    if given.bundle:
        measure(given.bundle.name, given.bundle, NUM_TOKENS["small"], given.threads)
        return
    with tempfile.TemporaryDirectory() as directory:
        for size in given.sizes or SIZES:
            bundle = write_reference_bundle(size, Path(directory))
            measure(size, bundle, NUM_TOKENS[size], given.threads)


def measure(name: str, bundle: Path, num_tokens: int, num_threads: int) -> None:
    """All figures of one bundle."""
    with serve(bundle, "--threads", str(num_threads)) as server:
        for num_streams in STREAMS:
            prefix = f"serving.{name}.streams_{num_streams}"
            raw = raw_tokens_per_second(bundle, num_streams, num_threads=num_threads)
            print_figure(f"{prefix}.raw", raw, "tokens/s")
            for sampling in SAMPLINGS:
                served = measure_streams(f"{prefix}.{sampling}", server, num_streams, num_tokens, sampling)
                print_figure(f"{prefix}.{sampling}.over_raw", served / raw, "ratio")
        print_figure(f"serving.{name}.server_rss", server.resident_mib, "MiB")


def measure_streams(prefix: str, server: ServerProcess, num_streams: int, num_tokens: int, sampling: str) -> float:
    """Tokens per second, with latencies printed on the way."""
    numbers = [num_streams, num_tokens, *SAMPLINGS[sampling]]
    client = [sys.executable, "-m", "bench.generation_client", server.grpc_address]
    output = subprocess.run([*client, *map(str, numbers)], check=True, capture_output=True, text=True).stdout
    times: list[list[float]] = json.loads(output)
    first = [stream[1] - stream[0] for stream in times]
    between = [b - a for stream in times for a, b in itertools.pairwise(stream[1:])]
    seconds = max(stream[-1] for stream in times) - min(stream[0] for stream in times)
    tokens_per_second = num_streams * num_tokens / seconds
    print_figure(f"{prefix}.tokens", tokens_per_second, "tokens/s")
    print_figure(f"{prefix}.first_token_p50", 1e3 * percentile(first, 0.5), "ms")
    print_figure(f"{prefix}.between_tokens_p50", 1e3 * percentile(between, 0.5), "ms")
    print_figure(f"{prefix}.between_tokens_p99", 1e3 * percentile(between, 0.99), "ms")
    return tokens_per_second


if __name__ == "__main__":
    main()
