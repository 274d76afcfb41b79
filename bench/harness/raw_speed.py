"""The ceiling: tokens per second of a bundle's graphs in a bare loop, no server and no text, at a batch and threads."""

import time
from pathlib import Path

import numpy as np

from carousel.bundle.manifest import Bundle
from carousel.engine.graph import Execution
from carousel.engine.model import OnnxModel


def raw_tokens_per_second(bundle: Path, num_rows: int, *, num_threads: int, seconds: float = 2.0) -> float:
    """Of a bundle that is loaded for this alone, after a warm-up of a fifth of the time."""
    loop = RawLoop(bundle, num_rows, num_threads=num_threads)
    loop.measure(0.2 * seconds)
    return loop.measure(seconds)


class RawLoop:
    """Greedy decoding of `num_rows` sequences: core, head, the likeliest token fed back. It can be measured in turns
    with others."""

    def __init__(self, bundle: Path, num_rows: int, *, num_threads: int) -> None:
        self._model = OnnxModel(Bundle.load(bundle), Execution(("cpu",), num_threads))
        self._ids_B1 = np.arange(2, 2 + num_rows)[:, None] % self._model.vocabulary_size
        self._state = self._model.layout.initial(num_rows)
        self._lengths_B = np.ones(num_rows, np.int32)

    def measure(self, seconds: float) -> float:
        """Tokens per second over at least one step."""
        num_steps, started = 0, time.perf_counter()
        while not num_steps or time.perf_counter() < started + seconds:
            hidden_B1H, self._state = self._model.core(self._ids_B1, self._lengths_B, self._state)
            self._ids_B1 = self._model.likeliest(hidden_B1H[:, 0]).ids_N[:, None]
            num_steps += 1
        return num_steps * len(self._ids_B1) / (time.perf_counter() - started)
