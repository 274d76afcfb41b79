"""The seeds of a run: its own seed, and a seed for each step of each process that follows from it.

No generator's state is carried from step to step, so a resumed run draws what an uninterrupted run draws.
"""

import random

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seeds torch's generators (CPU and CUDA), Python's and numpy's, before weights are drawn."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch's generators for this process alone, before a step's masks and negatives are drawn."""
    (word,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(word))
