"""What it costs to know the caller: a token in, ten candidates out, by 64 streams with a bearer token and without.

python -m bench.serving.auth [--quick]
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness.load import NUM_SESSIONS, Load
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve
from bench.harness.turn_about import Side, compare

from carousel.identity.principals import digest

_TOKEN = "bench-" + 40 * "x"
_PRINCIPALS = f"""
[[principal]]
name = "bench"
tokens = ["{digest(_TOKEN)}"]
scopes = ["generate", "sessions"]
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once instead of three times, and less of it")
    given = parser.parse_args(arguments)
    num_rounds, num_messages = (1, 300) if given.quick else (3, 1000)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        measure(write_reference_bundle("small", directory, "float32"), directory, num_rounds, num_messages)


def measure(bundle: Path, directory: Path, num_rounds: int, num_messages: int) -> None:
    principals = directory / "principals.toml"
    principals.write_text(_PRINCIPALS, encoding="utf-8")
    load = Load("predict", NUM_SESSIONS, 1, num_messages)
    known = serve(bundle, "--threads", "1", "--set", f"principals={principals}")
    with known as server, serve(bundle, "--threads", "1") as anonymous:
        sides = Side(server.grpc_address, replace(load, token=_TOKEN)), Side(anonymous.grpc_address, load)
        share, speed = compare(*sides, num_rounds)
    print_figure("auth.small.predict.messages", speed, "messages/s")
    print_figure("auth.small.predict_over_anonymous", share, "ratio", at_least=0.95)


if __name__ == "__main__":
    main()
