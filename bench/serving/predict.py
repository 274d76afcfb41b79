"""A token in, ten candidates out, by many at once: against a bare echo of the same messages on streams of its own, in
one run. Requests carry ids and expected positions, as our library's do.

    python -m bench.serving.predict [--quick]
"""

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness.child_process import find_program, running_redis
from bench.harness.echo_server import echo_server
from bench.harness.load import (
    MANY_SESSIONS,
    NUM_SESSIONS,
    WARM_UP_MESSAGES,
    Load,
    per_second,
    processor_seconds,
    put_load,
)
from bench.harness.raw_steps import step_seconds
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import ServerProcess, serve


@dataclass(frozen=True, slots=True)
class Case:
    """One line: what the client does, and the least share of the echo's messages."""

    name: str
    load: Load
    at_least: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    given = parser.parse_args(arguments)
    num_rounds, num_messages = (1, 300) if given.quick else (3, 1000)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        small = write_reference_bundle("small", directory, "float32")
        measure_memory(small, num_rounds, num_messages)
        measure_stores(small, directory, num_rounds, num_messages // 2)
        measure_over_raw(write_reference_bundle("medium", directory, "float32"), num_rounds, num_messages // 5)


def measure_memory(bundle: Path, num_rounds: int, num_messages: int) -> None:
    """Streams on one connection and on many, and sessions that share the streams of one client of our library."""
    separate = Load("predict", NUM_SESSIONS, 1, num_messages)
    shared = replace(separate, kind="multiplexed")
    num_of_each = max(10, num_messages * NUM_SESSIONS // MANY_SESSIONS)
    cases = (
        Case("one_connection", separate, 0.45),
        Case("many_connections", replace(separate, num_connections=NUM_SESSIONS), 0.45),
        Case("multiplexed", shared, 0.80),
        Case("multiplexed_1000", replace(shared, num_streams=MANY_SESSIONS, num_tokens=num_of_each), 0.80),
    )
    with serve(bundle, "--threads", "1") as server, echo_server() as echo:
        for case in cases:
            measure(server, echo, case, num_rounds, separate)


def measure_stores(bundle: Path, directory: Path, num_rounds: int, num_messages: int) -> None:
    """The same where every turn is written before it is answered."""
    load = Load("predict", NUM_SESSIONS, 1, num_messages)
    stores = [("sqlite", f"sqlite:{directory / 'sessions.db'}", 0.22)]
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(echo_server())
        if find_program("redis-server"):
            stores.append(("redis", stack.enter_context(running_redis(directory)), 0.13))
        for name, store, at_least in stores:
            with serve(bundle, "--threads", "1", "--set", f"store={store}") as server:
                measure(server, echo, Case(name, load, at_least), num_rounds, load)


def measure(server: ServerProcess, echo: str, case: Case, num_rounds: int, bare: Load) -> None:
    """Served and echo in turn. The echo has a stream for each of at most as many sessions as `bare` has."""
    speeds, shares, seconds, of_client = [], [], 0.0, 0.0
    for _ in range(num_rounds):
        before = processor_seconds(server.process.pid)
        found = put_load(server.grpc_address, case.load)
        seconds += processor_seconds(server.process.pid) - before
        of_client += found["client_seconds"]
        floor = replace(bare, kind="echo", response_bytes=found["response_bytes"])
        floor = replace(floor, num_connections=case.load.num_connections)
        speeds.append(per_second(found["seconds"]))
        shares.append(speeds[-1] / per_second(put_load(echo, floor)["seconds"]))
    num_streams = num_rounds * case.load.num_streams
    name = f"predict.small.{case.name}"
    print_figure(f"{name}.messages", statistics.median(speeds), "messages/s")
    print_figure(f"{name}.server", 1e6 * seconds / (num_streams * (case.load.num_tokens + WARM_UP_MESSAGES)), "us")
    print_figure(f"{name}.client", 1e6 * of_client / (num_streams * case.load.num_tokens), "us")
    print_figure(name, statistics.median(shares), "ratio", at_least=case.at_least)


def measure_over_raw(bundle: Path, num_rounds: int, num_messages: int) -> None:
    """Where arithmetic is most of it: messages over the rows of the bare graphs in batches as large, two threads."""
    load = Load("predict", NUM_SESSIONS, 1, num_messages)
    shares = []
    with serve(bundle, "--threads", "2") as server:
        for _ in range(num_rounds):
            raw = NUM_SESSIONS / step_seconds(bundle, NUM_SESSIONS, num_threads=2)
            shares.append(per_second(put_load(server.grpc_address, load)["seconds"]) / raw)
    print_figure("predict.medium.over_raw", statistics.median(shares), "ratio", at_least=0.75)


if __name__ == "__main__":
    main()
