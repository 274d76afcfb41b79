"""All generators of a process."""

import json
import random

import numpy as np
import torch

from carousel_training.randomness import generator_facts, generator_tensors, restore_generators, seed_generators


def draw() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))


def test_restored_generators_draw_the_same() -> None:
    """After a round trip through JSON and tensors every generator goes on where it was, halves of pairs included."""
    seed_generators(5)
    draw()
    tensors, facts = generator_tensors(), json.loads(json.dumps(generator_facts()))
    expected = [draw() for _ in range(3)]
    seed_generators(6)
    assert draw() != expected[0]
    restore_generators(tensors, facts)
    assert [draw() for _ in range(3)] == expected
