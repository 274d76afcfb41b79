"""Does one caller's abuse make another one wait? The round trips of a modest caller, quiet and beside each abuse.

    python -m trials.abuse [NAME ...] [--seconds 8]

`abuse.<name>.p99_ratio`: the 99th percentile of the modest caller's Predict beside the abuse. Where the server refuses
the abuse, it is held against an idle server; where what is asked is admissible, against the same load from many
callers who each ask for a part.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.reference_models import write_reference_bundle
from bench.report import percentile, print_figure, print_machine
from bench.server_process import serve
from trials.abuses import ABUSES, OWNER_KEY

REFUSED = {"stop_ids", "huge_text", "long_text", "huge_answer", "idle_streams"}
AT_MOST = 3.0
_OPTIONS = ("--threads", "1", "--set", f"owner_metadata={OWNER_KEY}", "--set", "max_sessions=20000")


@dataclass(frozen=True, slots=True)
class Felt:
    """What the modest caller felt."""

    p50: float  # seconds
    p99: float
    num_round_trips: int
    failures: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ABUSES, []], help="default: all")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    given = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        bundle = write_reference_bundle("small", Path(directory))
        is_fair = [measure(bundle, name, given.seconds) for name in given.names or ABUSES]
    sys.exit(0 if all(is_fair) else 1)


def measure(bundle: Path, name: str, seconds: float) -> bool:
    """Prints the figures of one abuse; whether the modest caller was served as he should be."""
    with serve(bundle, *_OPTIONS) as server:
        feel(server.grpc_address, 1.0)  # warm
        if name in REFUSED:
            before = feel(server.grpc_address, seconds)
        else:
            with abusing(server.grpc_address, name, is_honest=True):
                before = feel(server.grpc_address, seconds)
    with serve(bundle, *_OPTIONS) as server:
        feel(server.grpc_address, 1.0)
        with abusing(server.grpc_address, name):
            beside = feel(server.grpc_address, seconds)
    ratio = beside.p99 / before.p99
    print_figure(f"abuse.{name}.p99_before", 1e3 * before.p99, "ms")
    print_figure(f"abuse.{name}.p99_beside", 1e3 * beside.p99, "ms")
    print_figure(f"abuse.{name}.p99_ratio", ratio, "ratio", at_most=AT_MOST)
    print_figure(f"abuse.{name}.failures", len(beside.failures), "count", at_most=0)
    for failure in beside.failures[:3]:
        print(f"{name}: the modest caller got {failure}", file=sys.stderr)
    return ratio <= AT_MOST and not beside.failures


def feel(address: str, seconds: float) -> Felt:
    """The modest caller in a process of its own."""
    command = [sys.executable, "-m", "trials.victim", address, str(seconds)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = found["round_trips"] or [float("inf")]
    return Felt(percentile(times, 0.5), percentile(times, 0.99), len(found["round_trips"]), found["failures"])


@contextlib.contextmanager
def abusing(address: str, name: str, *, is_honest: bool = False) -> Iterator[None]:
    """The abuse in a process of its own, which gives way to the others on this machine."""
    command = [sys.executable, "-m", "trials.abuses", address, name, *(["--honest"] if is_honest else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=_give_way)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended by itself: nothing was measured beside it")
    finally:
        process.kill()
        process.communicate()


def _give_way() -> None:
    os.nice(10)


if __name__ == "__main__":
    main()
