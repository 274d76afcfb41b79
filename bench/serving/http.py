"""What HTTP costs beside gRPC: 64 streams that generate text, over server-sent events and over Generate, on one server.

    python -m bench.serving.http [--quick]

Both in turn, three times. A first token is the first event or message with text, when all streams begin at once.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness.child_process import free_ports
from bench.harness.load import NUM_SESSIONS, Load, processor_seconds, put_load
from bench.harness.one_model import run_on_small
from bench.harness.report import percentile, print_figure
from bench.harness.server_process import ServerProcess, serve


@dataclass(frozen=True, slots=True)
class Seen:
    """What one load saw. Times in seconds; the server's processor time is that of one token."""

    tokens_per_second: float
    until_first: list[float]
    server: float


def main(arguments: Sequence[str] | None = None) -> None:
    run_on_small(__doc__, arguments, measure, quick=(1, 300), whole=(3, 1500))


def measure(bundle: Path, directory: Path, num_rounds: int, num_tokens: int) -> None:
    """Prints the figures of both. Speeds are compared within a round, as the machine may have other work."""
    (port,) = free_ports(1)
    http_address = f"127.0.0.1:{port}"
    grpc_load = Load("grpc_text", NUM_SESSIONS, 1, num_tokens)
    grpc_seen, http_seen = [], []
    with serve(bundle, "--threads", "1", "--set", f"openai_listen={http_address}") as server:
        for _ in range(num_rounds):
            grpc_seen.append(_see(server, server.grpc_address, grpc_load))
            http_seen.append(_see(server, http_address, replace(grpc_load, kind="http_text")))
    _print_seen("http.small.grpc", grpc_seen)
    _print_seen("http.small.generation", http_seen)
    shares = [http.tokens_per_second / grpc.tokens_per_second for http, grpc in zip(http_seen, grpc_seen, strict=True)]
    print_figure("http.small.generation_over_grpc", statistics.median(shares), "ratio", at_least=0.6)


def _see(server: ServerProcess, address: str, load: Load) -> Seen:
    before = processor_seconds(server.process.pid)
    texts = put_load(address, load)
    seconds = processor_seconds(server.process.pid) - before
    if any(text["num_tokens"] != load.num_tokens for text in texts):
        raise RuntimeError("a text has ended early")
    num_tokens = load.num_streams * load.num_tokens
    elapsed = max(text["last"] for text in texts) - min(text["asked"] for text in texts)
    return Seen(num_tokens / elapsed, [text["first"] - text["asked"] for text in texts], seconds / num_tokens)


def _print_seen(name: str, seen: Sequence[Seen]) -> None:
    until_first = [seconds for one in seen for seconds in one.until_first]
    print_figure(f"{name}.tokens", statistics.median(one.tokens_per_second for one in seen), "tokens/s")
    print_figure(f"{name}.server", 1e6 * statistics.median(one.server for one in seen), "us")
    print_figure(f"{name}.first_token_p50", 1e3 * percentile(until_first, 0.5), "ms")
    print_figure(f"{name}.first_token_p99", 1e3 * percentile(until_first, 0.99), "ms")


if __name__ == "__main__":
    main()
