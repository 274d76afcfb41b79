"""What it costs to write every turn before it is answered: SQLite and Redis against memory, on the small model.

python -m bench.serving.durability [--quick]
"""

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.harness.child_process import find_program, running_redis
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import serve

NUM_CLIENTS, NUM_TURNS, NUM_TOKENS = 64, 25, 16
ROUNDS = 3  # memory and the others in turn, so that a drift of the machine meets all alike


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bundle = write_reference_bundle("small", directory)
        measure_durability(bundle, directory, 1 if given.quick else ROUNDS)


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


if __name__ == "__main__":
    main()
