"""Seeds, captures and restores the random generators of a process: torch's (CPU and CUDA), Python's and numpy's."""

import random
from typing import Any

import numpy as np
import torch

TORCH = "generator.torch"
CUDA = "generator.cuda"


def seed_generators(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def generator_tensors() -> dict[str, torch.Tensor]:
    """The state of torch's generators, under the names `restore_generators` reads."""
    tensors = {TORCH: torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[CUDA] = torch.cuda.get_rng_state()
    return tensors


def generator_facts() -> dict[str, Any]:
    """The state of Python's and numpy's generators as plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
    }


def restore_generators(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """The opposite of the two above."""
    torch.set_rng_state(tensors[TORCH])
    if CUDA in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[CUDA])
    version, words, gauss = facts["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = facts["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
