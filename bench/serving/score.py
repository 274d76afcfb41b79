"""How fast long inputs are scored, over the graphs' own speed in a bare loop on the same sequences, in one run.

python -m bench.serving.score [small] [medium] [--quick]
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_machine
from bench.harness.server_process import serve
from bench.serving.long_inputs import Inputs, make_parser, measure_passes, print_passes


def main(arguments: Sequence[str] | None = None) -> None:
    given = make_parser(__doc__).parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        for size in given.sizes or ["medium"]:
            bundle = write_reference_bundle(size, Path(name))
            measure_score(size, Inputs(bundle, given.threads, *((1, 256) if given.quick else (5, 1024))))


def measure_score(size: str, inputs: Inputs) -> None:
    with serve(inputs.bundle, "--threads", str(inputs.num_threads)) as server:
        found = measure_passes("score", server.grpc_address, inputs)
    print_passes(f"score.{size}", inputs.num_all_tokens, found)


if __name__ == "__main__":
    main()
