"""Two workers against one process whose steps have two threads, in one run: the same cores, the same Redis, the same
load on as many connections as streams. Client and Redis are on these cores too, so two cores show what workers cost
more than what they gain: their steps are smaller.

    python -m bench.serving.workers [--quick]

Needs redis-server (Debian package of that name).
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.child_process import require_program, running_redis
from bench.harness.load import Load, per_second, put_load
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve

NUM_WORKERS = 2
NUM_STREAMS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """What the client does; the least that two workers do of what one process does, where there is an aim."""

    name: str
    load: Load
    at_least: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    given = parser.parse_args(arguments)
    require_program("redis-server")
    num_rounds, size = (1, 1) if given.quick else (3, 4)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with running_redis(directory) as store:
            small = [
                Case("predict", Load("predict", NUM_STREAMS, NUM_STREAMS, 100 * size), 1.0),
                Case("carried", Load("predict", NUM_STREAMS, NUM_STREAMS, 100 * size, has_session=False)),
                Case("generate", Load("generate", NUM_STREAMS, NUM_STREAMS, 500 * size)),
            ]
            medium = [Case("generate", Load("generate", NUM_STREAMS, NUM_STREAMS, 30 * size))]
            compare_workers(
                "workers.small", write_reference_bundle("small", directory, "float32"), store, small, num_rounds
            )
            compare_workers(
                "workers.medium", write_reference_bundle("medium", directory, "float32"), store, medium, num_rounds
            )


def compare_workers(prefix: str, bundle: Path, store: str, cases: Sequence[Case], num_rounds: int) -> None:
    """Both in turn, so that a drift of the machine meets both alike."""
    kept = ("--set", f"store={store}")
    with (
        serve(bundle, "--threads", str(NUM_WORKERS), *kept) as one,
        serve(bundle, "--workers", str(NUM_WORKERS), "--threads", "1", *kept) as several,
    ):
        for case in cases:
            speeds: tuple[list[float], list[float]] = ([], [])
            for _ in range(num_rounds):
                for found, server in zip(speeds, (one, several), strict=True):
                    found.append(_speed(server.grpc_address, case.load))
            print_workers(f"{prefix}.{case.name}", case, *speeds)


def print_workers(name: str, case: Case, one: Sequence[float], several: Sequence[float]) -> None:
    """Speeds in tokens or messages, round by round."""
    unit = "tokens/s" if case.load.kind == "generate" else "messages/s"
    ratio = statistics.median(b / a for a, b in zip(one, several, strict=True))
    print_figure(f"{name}.one", statistics.median(one), unit)
    print_figure(f"{name}.several", statistics.median(several), unit)
    print_figure(f"{name}_over_one", ratio, "ratio", at_least=case.at_least)


def _speed(address: str, load: Load) -> float:
    found = put_load(address, load)
    return per_second(found if load.kind == "generate" else found["seconds"])


if __name__ == "__main__":
    main()
