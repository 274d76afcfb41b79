"""Long inputs: tokens fed and tokens rated per second, against the same graphs on the same sequences in a bare loop.

    python -m bench.serving.ingest [small] [medium] [--quick]

Eight sequences of 1,024 tokens come at once. The bare loop runs all eight rows in chunks of 16, 64 and 256 tokens, and
its best counts. Bare and served take turns in one run. And what becomes of the sequences, and of the stream, when they
are fed beside one that generates.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench.clients.long_inputs import draw_sequence
from bench.harness.reference_models import SIZES, write_reference_bundle
from bench.harness.report import percentile, print_figure, print_machine
from bench.harness.server_process import serve

from carousel.bundle.layout import Array
from carousel.bundle.manifest import Bundle
from carousel.engine.graph import Execution
from carousel.engine.model import OnnxModel

NUM_SEQUENCES = 8
CHUNKS = (16, 64, 256)
KINDS = ("ingest", "score")


@dataclass(frozen=True, slots=True)
class Pass:
    """Once over all sequences. The log-probability, in nats, is 0 where tokens were fed alone."""

    seconds: float
    log_probability: float


@dataclass(frozen=True, slots=True)
class Company:
    """Seconds of a pass alone and beside a stream, and between the stream's tokens before and meanwhile."""

    alone: float
    beside: float
    calm: list[float]
    meanwhile: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=[*SIZES, []], help="default: medium")
    parser.add_argument("--threads", type=int, default=1, help="onnxruntime threads, server and bare loop alike")
    parser.add_argument("--quick", action="store_true", help="once instead of five times, 256 tokens")
    given = parser.parse_args(arguments)
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        for size in given.sizes or ["medium"]:
            bundle = write_reference_bundle(size, Path(name))
            measure(size, bundle, given.threads, *((1, 256) if given.quick else (5, 1024)))


def measure(size: str, bundle: Path, num_threads: int, num_rounds: int, num_tokens: int) -> None:
    model = OnnxModel(loaded := Bundle.load(bundle), Execution(("cpu",), num_threads))
    sequences = [draw_sequence(number, num_tokens, model.vocabulary_size) for number in range(NUM_SEQUENCES)]
    raw = RawPrompts(model, loaded.manifest.start_id, np.array(sequences))
    with serve(bundle, "--threads", str(num_threads)) as server:
        for kind in KINDS:
            bare: dict[int, list[Pass]] = {chunk: [] for chunk in CHUNKS}
            served = []
            for _ in range(num_rounds):
                for chunk, passes in bare.items():
                    passes.append(raw.run(kind, chunk))
                served.append(_ask_server(server.grpc_address, kind, num_tokens, model.vocabulary_size))
            _print_figures(f"{kind}.{size}", NUM_SEQUENCES * num_tokens, bare, served)
        numbers = (NUM_SEQUENCES, num_tokens, model.vocabulary_size)
        company = [
            Company(**_ask("bench.clients.beside_one", server.grpc_address, *numbers)) for _ in range(num_rounds)
        ]
        _print_company(f"ingest.{size}.beside_one", NUM_SEQUENCES * num_tokens, company)


class RawPrompts:
    """The bare loop: B sequences of T tokens each, from the start token on."""

    def __init__(self, model: OnnxModel, start_id: int, ids_BT: Array) -> None:
        self._model = model
        self._ids_BT = ids_BT
        starts_B1 = np.full((len(ids_BT), 1), start_id)
        hidden_B1H, self._state = model.core(starts_B1, _lengths(starts_B1), model.layout.initial(len(ids_BT)))
        self._hidden_BH = hidden_B1H[:, 0]

    def run(self, kind: str, chunk: int) -> Pass:
        """Once over all sequences, `chunk` tokens of each in a call."""
        state, last_BH, log_probability = self._state, self._hidden_BH, 0.0
        started = time.perf_counter()
        for at in range(0, self._ids_BT.shape[1], chunk):
            ids_BC = self._ids_BT[:, at : at + chunk]
            hidden_BCH, state = self._model.core(ids_BC, _lengths(ids_BC), state)
            if kind == "score":  # a token is rated by the hidden vector before it
                before_BCH = np.concatenate([last_BH[:, None], hidden_BCH[:, :-1]], axis=1)
                rated = self._model.score(before_BCH.reshape(-1, before_BCH.shape[-1]), ids_BC.reshape(-1))
                log_probability += float(rated.log_probs_N.sum(dtype=np.float64))
                last_BH = hidden_BCH[:, -1]
        return Pass(time.perf_counter() - started, log_probability)


def _lengths(ids_BT: Array) -> Array:
    return np.full(len(ids_BT), ids_BT.shape[1], np.int32)


def _ask_server(address: str, kind: str, num_tokens: int, vocabulary_size: int) -> Pass:
    return Pass(**_ask("bench.clients.long_inputs", address, kind, NUM_SEQUENCES, num_tokens, vocabulary_size))


def _ask(client: str, address: str, *arguments: str | int) -> dict[str, Any]:
    """What a client process prints."""
    command = [sys.executable, "-m", client, address, *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _print_figures(name: str, num_tokens: int, bare: dict[int, list[Pass]], served: list[Pass]) -> None:
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


def _print_company(name: str, num_tokens: int, rounds: list[Company]) -> None:
    """The sequences' speed over that without the stream; of its tokens, the 99th percentile between two over the mean
    before, which is a step of the stream alone. (A median would be 0 where several tokens share a message.)"""
    stretches = [percentile(one.meanwhile, 0.99) / statistics.mean(one.calm) for one in rounds]
    print_figure(f"{name}.tokens", num_tokens / statistics.median(one.beside for one in rounds), "tokens/s")
    print_figure(name, statistics.median(one.alone / one.beside for one in rounds), "ratio", at_least=0.5)
    print_figure(f"{name}.p99_between_tokens", statistics.median(stretches), "ratio", at_most=2.5)


def _median_seconds(passes: list[Pass]) -> float:
    return statistics.median(one.seconds for one in passes)


if __name__ == "__main__":
    main()
