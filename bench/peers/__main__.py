"""Our server beside others on the same graphs, in one run, with the same client: see `bench/peers.md`.

python -m bench.peers [triton] [mlserver] [--size small] [--size medium] [--seconds 3] [--rounds 3]
"""

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from bench.harness.reference_models import SIZES, write_reference_bundle
from bench.harness.report import print_machine
from bench.harness.server_process import serve
from bench.peers.contest import Contestant, check, measure
from bench.peers.environments import PeerUnavailable
from bench.peers.golden import golden_answers
from bench.peers.peer import print_ratios, print_timings

from bench.peers import mlserver, triton

PEERS = {"triton": triton, "mlserver": mlserver}
NUM_THREADS = {"small": 1, "medium": 2}
PATTERNS = {one: one for one in ("predict", "predict_session", "predict_many", "predict_many_session", "generate")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", choices=[*PEERS, []], help="default: all")
    parser.add_argument("--size", action="append", choices=[*SIZES], help="default: all; may be repeated")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, warm-up not counted")
    parser.add_argument("--rounds", type=int, default=3, help="of the 64 sessions, servers in turn")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that the servers end with us
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        for size in given.size or SIZES:
            compare(size, given.peers or [*PEERS], Path(directory), given.seconds, given.rounds)


def compare(size: str, peers: list[str], directory: Path, seconds: float, rounds: int) -> None:
    """All servers up at once, each checked and then timed in turn."""
    bundle, num_threads = write_reference_bundle(size, directory), NUM_THREADS[size]
    golden = golden_answers(bundle)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(serve(bundle, "--threads", str(num_threads)))
        contestants = [Contestant("carousel", ours.grpc_address, PATTERNS)]
        for name in peers:
            place = directory / f"{name}-{size}"
            place.mkdir()
            try:
                address = stack.enter_context(PEERS[name].serve(bundle, num_threads, place))
            except PeerUnavailable as error:
                print(f"{name}, {size}: not there: {error}", file=sys.stderr)
            else:
                contestants.append(Contestant(PEERS[name].NAME, address, PEERS[name].PATTERNS))
        right = [check(contestant, golden) for contestant in contestants]
        timings = measure(right, bundle, num_threads, seconds, rounds)
    print_timings(size, timings)
    print_ratios(size, timings)


if __name__ == "__main__":
    main()
