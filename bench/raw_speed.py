"""The ceiling: tokens per second of a bundle's graphs in a bare loop, no server and no text, at a batch and threads."""

import time
from pathlib import Path

import numpy as np

from carousel.bundle.manifest import Bundle
from carousel.engine.model import Execution, OnnxModel


def raw_tokens_per_second(bundle: Path, num_rows: int, *, num_threads: int, seconds: float = 2.0) -> float:
    """Greedy decoding of `num_rows` sequences: core, head, the likeliest token fed back."""
    loaded = Bundle.load(bundle)
    model = OnnxModel(loaded, Execution(("cpu",), num_threads))
    ids_B1 = np.arange(2, 2 + num_rows)[:, None] % model.vocabulary_size
    state = model.layout.initial(num_rows)
    lengths_B = np.ones(num_rows, np.int32)

    def run(until: float) -> int:
        nonlocal ids_B1, state
        num_steps = 0
        while time.perf_counter() < until:
            hidden_B1H, state = model.core(ids_B1, lengths_B, state)
            ids_B1 = model.candidates(hidden_B1H[:, 0], 1).ids_NK
            num_steps += 1
        return num_steps

    run(time.perf_counter() + 0.2 * seconds)  # warm caches and pools
    started = time.perf_counter()
    num_steps = run(started + seconds)
    return num_steps * num_rows / (time.perf_counter() - started)
