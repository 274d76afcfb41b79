"""Does one caller's abuse make another caller wait? Measures a modest caller's round trips, quiet and beside each
abuse."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import ServerProcess, serve
from trials.abuses import ABUSES, OWNER_KEY
from trials.process_samples import waited_seconds

REFUSED = {"stop_ids", "huge_text", "long_text", "huge_answer", "idle_streams", "many_refused"}
AT_MOST = 3.0
_OPTIONS = ("--threads", "1", "--set", f"owner_metadata={OWNER_KEY}", "--set", "max_sessions=20000")


@dataclass(frozen=True, slots=True)
class Felt:
    """What the modest caller measured."""

    p50: float  # seconds
    p99: float
    num_round_trips: int
    failures: list[str]
    waited: float  # by the server's threads, for a processor, in seconds


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
    """Prints the figures of one abuse. Returns whether the modest caller was served properly."""
    before = feel_without(bundle, name, seconds)
    beside = feel_beside(bundle, name, seconds)
    after = feel_without(bundle, name, seconds)
    for moment, felt in (("before", before), ("beside", beside), ("after", after)):
        print_figure(f"abuse.{name}.p50_{moment}", 1e3 * felt.p50, "ms")
        print_figure(f"abuse.{name}.p99_{moment}", 1e3 * felt.p99, "ms")
        print_figure(f"abuse.{name}.waited_{moment}", felt.waited, "s")
    ratio = slow_down(before, beside, after)
    print_figure(f"abuse.{name}.p99_ratio", ratio, "ratio", at_most=AT_MOST)
    print_figure(f"abuse.{name}.failures", len(beside.failures), "count", at_most=0)
    for failure in beside.failures[:3]:
        print(f"{name}: the modest caller got {failure}", file=sys.stderr)
    return ratio <= AT_MOST and not beside.failures


def slow_down(before: Felt, beside: Felt, after: Felt) -> float:
    """Returns the 99th percentile beside the abuse, divided by the mean of those before and after."""
    return beside.p99 / statistics.mean((before.p99, after.p99))


def feel_without(bundle: Path, name: str, seconds: float) -> Felt:
    """Returns the baseline of the abuse: quiet, or the same load from honest callers."""
    with serve(bundle, *_OPTIONS) as server:
        feel(server, 1.0)  # warm
        if name in REFUSED:
            return feel(server, seconds)
        with abusing(server.grpc_address, name, is_honest=True):
            return feel(server, seconds)


def feel_beside(bundle: Path, name: str, seconds: float) -> Felt:
    with serve(bundle, *_OPTIONS) as server:
        feel(server, 1.0)
        with abusing(server.grpc_address, name):
            return feel(server, seconds)


def feel(server: ServerProcess, seconds: float) -> Felt:
    """Runs the modest caller in a separate process."""
    command = [sys.executable, "-m", "trials.victim", server.grpc_address, str(seconds)]
    directory = Path(f"/proc/{server.process.pid}")
    waited = waited_seconds(directory)
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    waited = waited_seconds(directory) - waited
    times = found["round_trips"] or [float("inf")]
    return Felt(percentile(times, 0.5), percentile(times, 0.99), len(found["round_trips"]), found["failures"], waited)


@contextlib.contextmanager
def abusing(address: str, name: str, *, is_honest: bool = False) -> Iterator[None]:
    """Runs the abuse in a separate process with low priority on this machine."""
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
