"""Where chance comes from: the seed of a run, and for each step of each process a seed that follows from it.

Nothing is carried from step to step, so a run that goes on draws what it would have drawn.
"""

import random

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Before weights are drawn: torch's generators (CPU and CUDA), Python's and numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Before the masks and negatives of a step are drawn: torch's generators, for this process alone."""
    (word,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(word))
