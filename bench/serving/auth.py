"""What it costs to know the caller: a token in, ten candidates out, by 64 streams with a bearer token and without.

python -m bench.serving.auth [--quick]
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness.load import NUM_SESSIONS, Load
from bench.harness.one_model import run_on_small
from bench.harness.report import print_figure
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
    run_on_small(__doc__, arguments, measure)


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
