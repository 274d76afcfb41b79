"""This module seeds the random generators: once for a run, and again for each step of each process.

No generator state is carried from step to step, so a resumed run draws the same numbers.
"""

import random

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seeds the generators of torch (CPU and CUDA), Python and numpy, before weights are drawn."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch's generators for this process, before the masks and negatives of a step are drawn."""
    (word,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(word))
