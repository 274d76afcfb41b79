"""What a session's operations cost, as a client in another process sees them: get, fork, export, import, rewind.

    python -m bench.serving.sessions.operations [--quick]

On the small model, on a session with a full history.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve

from carousel.client import Client

NUM_OPERATIONS = 200
SEAL_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="no less of it: it takes seconds in any case")
    parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        measure_operations(write_reference_bundle("small", Path(directory)))


def measure_operations(bundle: Path) -> None:
    """Microseconds of a call; of most the median."""
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
