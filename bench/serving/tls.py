"""What encryption costs: a token in, ten candidates out, by 64 streams, on an encrypted connection and on a plain one.

python -m bench.serving.tls [--quick]
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness.certificates import Authority
from bench.harness.load import NUM_SESSIONS, Load
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine
from bench.harness.server_process import serve
from bench.harness.turn_about import Side, compare


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
    authority = Authority(directory / "certificates")
    own = authority.sign("server")
    settings = ("--set", f"tls_cert={own.cert}", "--set", f"tls_key={own.key}")
    load = Load("predict", NUM_SESSIONS, 1, num_messages)
    with serve(bundle, "--threads", "1", *settings) as encrypted, serve(bundle, "--threads", "1") as plain:
        sides = Side(encrypted.grpc_address, replace(load, ca=str(authority.ca))), Side(plain.grpc_address, load)
        share, speed = compare(*sides, num_rounds)
    print_figure("tls.small.predict.messages", speed, "messages/s")
    print_figure("tls.small.predict_over_plain", share, "ratio", at_least=0.85)


if __name__ == "__main__":
    main()
