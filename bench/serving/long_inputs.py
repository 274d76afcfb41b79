"""What `ingest.py` and `score.py` share: long inputs of eight sequences at once, served and in a bare loop, in turn.

The bare loop runs all eight rows in chunks of 16, 64 and 256 tokens, and its best counts. Served and bare must rate the
tokens alike.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench.clients.long_inputs import draw_sequence
from bench.harness.raw_prompts import Pass, RawPrompts
from bench.harness.reference_models import SIZES
from bench.harness.report import print_figure

from carousel.bundle.manifest import Bundle
from carousel.engine.graph import Execution
from carousel.engine.model import OnnxModel

NUM_SEQUENCES = 8
CHUNKS = (16, 64, 256)


@dataclass(frozen=True, slots=True)
class Inputs:
    """How much is measured: a bundle, onnxruntime threads of server and bare loop alike, rounds, tokens a sequence."""

    bundle: Path
    num_threads: int
    num_rounds: int
    num_tokens: int

    @property
    def num_all_tokens(self) -> int:
        return NUM_SEQUENCES * self.num_tokens


def make_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=[*SIZES, []], help="default: medium")
    parser.add_argument("--threads", type=int, default=1, help="onnxruntime threads, server and bare loop alike")
    parser.add_argument("--quick", action="store_true", help="once instead of five times, 256 tokens")
    return parser


@dataclass(frozen=True, slots=True)
class Passes:
    """A pass for each round: of the bare loop by chunk, and of the server."""

    bare: dict[int, list[Pass]]
    served: list[Pass]


def measure_passes(kind: str, address: str, inputs: Inputs) -> Passes:
    """`kind` is ingest or score."""
    model = OnnxModel(loaded := Bundle.load(inputs.bundle), Execution(("cpu",), inputs.num_threads))
    sequences = [draw_sequence(number, inputs.num_tokens, model.vocabulary_size) for number in range(NUM_SEQUENCES)]
    raw = RawPrompts(model, loaded.manifest.start_id, np.array(sequences))
    found = Passes({chunk: [] for chunk in CHUNKS}, [])
    numbers = (NUM_SEQUENCES, inputs.num_tokens, model.vocabulary_size)
    for _ in range(inputs.num_rounds):
        for chunk, passes in found.bare.items():
            passes.append(raw.run(kind, chunk))
        found.served.append(Pass(**ask("bench.clients.long_inputs", address, kind, *numbers)))
    return found


def ask(client: str, address: str, *arguments: str | int) -> dict[str, Any]:
    """What a client process prints."""
    command = [sys.executable, "-m", client, address, *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def print_passes(name: str, num_tokens: int, found: Passes) -> None:
    bare, served = found.bare, found.served
    chunk = min(bare, key=lambda one: _median_seconds(bare[one]))
    totals = [one.log_probability for one in (*served, *(one for passes in bare.values() for one in passes))]
    if not all(math.isclose(total, totals[0], rel_tol=1e-5) for total in totals):
        raise SystemExit(f"{name}: served and raw do not rate the tokens alike: {totals}")
    for one, passes in bare.items():
        print_figure(f"{name}.raw_chunk_{one}", num_tokens / _median_seconds(passes), "tokens/s")
    print_figure(f"{name}.best_chunk", chunk, "tokens")
    print_figure(f"{name}.served", num_tokens / _median_seconds(served), "tokens/s")
    shares = [raw.seconds / one.seconds for raw, one in zip(bare[chunk], served, strict=True)]
    print_figure(name, statistics.median(shares), "ratio", at_least=0.85)


def _median_seconds(passes: list[Pass]) -> float:
    return statistics.median(one.seconds for one in passes)
