"""How fast long inputs are fed, over the graphs' own speed in a bare loop on the same sequences, in one run; how fast
beside a stream that generates, and what the stream feels of it.

    python -m bench.serving.ingest [small] [medium] [--quick]

Eight sequences of 1,024 tokens come at once. `long_inputs.py` says what the bare loop is.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import serve
from bench.serving.long_inputs import NUM_SEQUENCES, Inputs, ask, make_parser, measure_passes, print_passes

from carousel.bundle.manifest import Bundle


@dataclass(frozen=True, slots=True)
class Company:
    """Seconds of a pass alone and beside a stream, and between the stream's tokens before and meanwhile."""

    alone: float
    beside: float
    calm: list[float]
    meanwhile: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    given = make_parser(__doc__).parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        for size in given.sizes or ["medium"]:
            bundle = write_reference_bundle(size, Path(name))
            measure_ingest(size, Inputs(bundle, given.threads, *((1, 256) if given.quick else (5, 1024))))


def measure_ingest(size: str, inputs: Inputs) -> None:
    numbers = (NUM_SEQUENCES, inputs.num_tokens, Bundle.load(inputs.bundle).manifest.vocabulary_size)
    with serve(inputs.bundle, "--threads", str(inputs.num_threads)) as server:
        print_passes(f"ingest.{size}", inputs.num_all_tokens, measure_passes("ingest", server.grpc_address, inputs))
        rounds = range(inputs.num_rounds)
        company = [Company(**ask("bench.clients.beside_one", server.grpc_address, *numbers)) for _ in rounds]
    print_company(f"ingest.{size}.beside_one", inputs.num_all_tokens, company)


def print_company(name: str, num_tokens: int, rounds: list[Company]) -> None:
    """The sequences' speed over that without the stream; of its tokens, the 99th percentile between two over the mean
    before, which is a step of the stream alone. (A median would be 0 where several tokens share a message.)"""
    stretches = [percentile(one.meanwhile, 0.99) / statistics.mean(one.calm) for one in rounds]
    print_figure(f"{name}.tokens", num_tokens / statistics.median(one.beside for one in rounds), "tokens/s")
    print_figure(name, statistics.median(one.alone / one.beside for one in rounds), "ratio", at_least=0.5)
    print_figure(f"{name}.p99_between_tokens", statistics.median(stretches), "ratio", at_most=2.5)


if __name__ == "__main__":
    main()
