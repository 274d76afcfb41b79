"""What encryption costs: a token in, ten candidates out, by 64 streams, on an encrypted connection and on a plain one.

python -m bench.serving.tls [--quick]
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness.certificates import Authority
from bench.harness.load import NUM_SESSIONS, Load
from bench.harness.one_model import run_on_small
from bench.harness.report import print_figure
from bench.harness.server_process import serve
from bench.harness.turn_about import Side, compare


def main(arguments: Sequence[str] | None = None) -> None:
    run_on_small(__doc__, arguments, measure)


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
