"""Random numbers depend on seed, step and process, and on nothing else."""

import random

import numpy as np
import torch

from carousel_training.randomness import seed_generators, seed_step


def draw() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))


def draw_in_step(seed: int, step: int, rank: int) -> float:
    seed_step(seed, step, rank)
    return float(torch.randn(()))


def test_a_seed_sets_every_generator() -> None:
    """After any earlier draws, equal seeds draw the same, and another seed draws something else."""
    drawn = []
    for seed in (5, 5, 6):
        seed_generators(seed)
        drawn.append(draw())
        draw()
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))


def test_a_step_draws_by_seed_step_and_process() -> None:
    """Each of the three changes the draw, even if their sums are equal. Earlier draws do not."""
    keys = [(seed, step, rank) for seed in (0, 1, 2**62) for step in range(4) for rank in range(3)]
    first = [draw_in_step(*key) for key in keys]
    assert len(set(first)) == len(keys)
    assert [draw_in_step(*key) for key in reversed(keys)] == first[::-1]
