"""Measures serving speed: tokens per second of a model's graphs in the server's own model class, without a server.

`carousel-train compare` finds `measure_serving` through the entry point group `carousel_training.serving_speed`, since
training may not import the exporter. Legend: B rows, H hidden width, K candidates.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from carousel.bundle.manifest import Bundle
from carousel.engine.model import OnnxModel, StepModel
from carousel_export.bundle_writer import write_files
from carousel_training.checkpoint import TrainedModel

BATCH_SIZES = (1, 64)
SECONDS = 1.0
NUM_CANDIDATES = 5


def measure_serving(trained: TrainedModel) -> dict[int, float]:
    """Returns tokens per second by batch size, on one thread, from a temporary bundle."""
    with tempfile.TemporaryDirectory() as directory:
        write_files(trained, Path(directory), "measured")
        model = OnnxModel(Bundle.load(Path(directory)))
    return {size: tokens_per_second(model, size, SECONDS, time.perf_counter) for size in BATCH_SIZES}


def tokens_per_second(model: StepModel, num_rows: int, seconds: float, clock: Callable[[], float]) -> float:
    """Measures greedy decoding of `num_rows` sequences, after a warm-up of a fifth of the time."""
    ids_B1 = np.arange(num_rows, dtype=np.int64)[:, None] % model.vocabulary_size
    state, lengths_B = model.layout.initial(num_rows), np.ones(num_rows, np.int32)
    num_steps, started, warm_until = 0, clock(), clock() + 0.2 * seconds
    is_warm = False
    while not is_warm or clock() < started + seconds:
        hidden_B1H, state = model.core(ids_B1, lengths_B, state)
        ids_B1 = model.candidates(hidden_B1H[:, 0], NUM_CANDIDATES).ids_NK[:, :1]
        num_steps += 1
        if not is_warm and clock() >= warm_until:
            is_warm, num_steps, started = True, 0, clock()
    return num_steps * num_rows / (clock() - started)
