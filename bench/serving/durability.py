"""What sessions cost: durability against memory, forks and rewinds, bytes and speed as they grow in number.

    python -m bench.serving.durability [durability] [operations] [--quick]

All on the small reference model, each comparison within one run.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.harness.child_process import find_program, running_redis
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import serve

from carousel.client import Client

NUM_CLIENTS, NUM_TURNS, NUM_TOKENS = 64, 25, 16
ROUNDS = 3  # memory and the others in turn, so that a drift of the machine meets all alike
NUM_OPERATIONS = 200
SEAL_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["durability", "operations", []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    given = parser.parse_args()
    parts = given.parts or ["durability", "operations"]
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bundle = write_reference_bundle("small", directory)
        if "durability" in parts:
            measure_durability(bundle, directory, 1 if given.quick else ROUNDS)
        if "operations" in parts:
            measure_operations(bundle)


def measure_durability(bundle: Path, directory: Path, num_rounds: int) -> None:
    """Tokens per second and the slowest turns of 64 clients in 16-token turns, store by store."""
    stores = {"memory": "memory", "sqlite": f"sqlite:{directory / 'sessions.db'}"}
    with contextlib.ExitStack() as stack:
        if find_program("redis-server"):
            stores["redis"] = stack.enter_context(running_redis(directory))
        servers = {name: stack.enter_context(serve(bundle, "--set", f"store={at}")) for name, at in stores.items()}
        speeds: dict[str, list[float]] = {name: [] for name in stores}
        turns: dict[str, list[float]] = {name: [] for name in stores}
        for _, (name, server) in itertools.product(range(num_rounds), servers.items()):
            numbers = map(str, (NUM_CLIENTS, NUM_TURNS, NUM_TOKENS))
            client = [sys.executable, "-m", "bench.clients.turns", server.grpc_address, *numbers]
            result = json.loads(subprocess.run(client, check=True, capture_output=True, text=True).stdout)
            speeds[name].append(result["tokens_per_second"])
            turns[name] += result["turns"]
    for name in stores:
        print_figure(f"durability.{name}.tokens", statistics.median(speeds[name]), "tokens/s")
        print_figure(f"durability.{name}.turn_p99", 1e3 * percentile(turns[name], 0.99), "ms")
    aims = {"sqlite": 0.85, "redis": 0.7}
    for name in stores.keys() & aims.keys():
        ratio = statistics.median(a / b for a, b in zip(speeds[name], speeds["memory"], strict=True))
        print_figure(f"durability.{name}_over_memory", ratio, "ratio", at_least=aims[name])


def measure_operations(bundle: Path) -> None:
    """Microseconds of a call, seen by a client in another process, on a session with a full history."""
    with (
        serve(bundle, variables={"CAROUSEL_SEAL_KEYS": SEAL_KEY}) as server,
        Client(server.grpc_address) as client,
        client.session() as session,
    ):
        for _ in range(10):
            list(session.generate([5], max_tokens=4, temperature=0))
        position = session.history().positions[-2]
        state = session.export()
        operations: dict[str, Callable[[], object]] = {
            "get": session.get,
            "fork": lambda: session.fork(),
            "export": lambda: session.export(),
            "import": lambda: client.import_session(state),
        }
        for name, operation in operations.items():
            print_figure(f"sessions.{name}_microseconds", 1e6 * _median_seconds(operation), "us")
        started = time.perf_counter()
        session.rewind(position=position)
        print_figure("sessions.rewind_microseconds", 1e6 * (time.perf_counter() - started), "us")


def _median_seconds(operation: Callable[[], object]) -> float:
    seconds = []
    for _ in range(NUM_OPERATIONS):
        started = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
