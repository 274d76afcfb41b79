"""How long a step of the bare graphs takes."""

import statistics
import time
from pathlib import Path

import numpy as np

from carousel.bundle.manifest import Bundle
from carousel.engine.graph import Execution
from carousel.engine.model import OnnxModel

NUM_CANDIDATES = 10


def step_seconds(bundle: Path, num_rows: int, num_threads: int = 1) -> float:
    """The median, with the likeliest candidates of every row."""
    model = OnnxModel(Bundle.load(bundle), Execution(num_threads=num_threads))
    ids_B1, lengths_B = np.full((num_rows, 1), 5), np.ones(num_rows, np.int32)
    state, seconds = model.layout.initial(num_rows), []
    for _ in range(200 if num_rows == 1 else 40):
        started = time.perf_counter()
        hidden_B1H, state = model.core(ids_B1, lengths_B, state)
        model.candidates(hidden_B1H[:, 0], NUM_CANDIDATES)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
