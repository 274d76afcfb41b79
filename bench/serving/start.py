"""What a server costs before it does anything: seconds until it is ready, and memory with idle sessions.

    python -m bench.serving.start [--sessions 10000] [--quick]

Both on the small reference model and over what the harness's `bare_process.py` needs for the same graphs and states.
Modules are compiled before the first start that counts, as an installation leaves them.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.load import processor_seconds
from bench.harness.memory import resident_mib
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve

from carousel.client import Client


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000, help="idle sessions when memory is looked at")
    parser.add_argument("--quick", action="store_true", help="start twice instead of seven times")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        bundle = write_reference_bundle("small", Path(name))
        compiled = {"PYTHONPYCACHEPREFIX": str(Path(name) / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        measure_readiness(bundle, compiled, 2 if given.quick else 7)
        measure_memory(bundle, compiled, given.sessions)


def measure_readiness(bundle: Path, variables: Mapping[str, str], num_starts: int) -> None:
    """Medians; server and bare process start in turn, so that a drift of the machine meets both alike."""
    whole, graphs, processor = [], [], []
    for _ in range(num_starts + 1):
        with bare_process(bundle, 0, variables) as bare:
            graphs.append(bare.loading_seconds)
        started = time.perf_counter()
        with serve(bundle, variables=variables) as server:
            whole.append(time.perf_counter() - started)
            processor.append(processor_seconds(server.process.pid))
    del whole[0], graphs[0], processor[0]  # this start compiled the modules
    rest = [all_of_it - loading for all_of_it, loading in zip(whole, graphs, strict=True)]
    print_figure("start.whole_seconds", statistics.median(whole), "s")
    print_figure("start.processor_seconds", statistics.median(processor), "s")
    print_figure("start.graph_seconds", statistics.median(graphs), "s")
    print_figure("start.ready_seconds", statistics.median(rest), "s", at_most=1.5)


def measure_memory(bundle: Path, variables: Mapping[str, str], num_sessions: int) -> None:
    """Resident memory of the server over the bare process's, without sessions and with so many."""
    with serve(bundle, "--set", f"max_sessions={num_sessions}", variables=variables) as server:
        empty = resident_mib(server.process.pid)
        with Client(server.grpc_address) as client:
            for _ in range(num_sessions):
                client.create_session()
        full = resident_mib(server.process.pid)
    with bare_process(bundle, 0, variables) as bare:
        empty_bare = resident_mib(bare.pid)
    with bare_process(bundle, num_sessions, variables) as bare:
        full_bare = resident_mib(bare.pid)
    print_figure("start.rss_empty", empty, "MiB")
    print_figure("start.rss_empty_bare", empty_bare, "MiB")
    print_figure("start.rss", full, "MiB")
    print_figure("start.rss_bare", full_bare, "MiB")
    print_figure("start.rss_ratio", full / full_bare, "ratio", at_most=1.5)


@dataclass(frozen=True, slots=True)
class BareProcess:
    """One that holds everything it will."""

    pid: int
    loading_seconds: float


@contextlib.contextmanager
def bare_process(bundle: Path, num_sessions: int, variables: Mapping[str, str]) -> Iterator[BareProcess]:
    command = [sys.executable, "-m", "bench.harness.bare_process", str(bundle), str(num_sessions)]
    environment = os.environ | dict(variables)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        loading_seconds = float(process.stdout.readline())
        process.stdout.readline()
        yield BareProcess(process.pid, loading_seconds)
        process.communicate()


if __name__ == "__main__":
    main()
