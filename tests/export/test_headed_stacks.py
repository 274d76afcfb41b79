"""The cells with heads are exact where their gates are nearly shut or open, and over long memories."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.networks import build_model

from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_training.checkpoint import TrainedModel
from carousel_training.model import RecurrentLM

NUM_STEPS = 300


def served_and_exact(model: RecurrentLM, tokenizer: Tokenizer, directory: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns hidden vectors and states after many tokens, as served and in double precision."""
    write_files(TrainedModel(model, tokenizer, {}), directory, "model")
    served = OnnxModel(Bundle.load(directory))
    ids_BT = np.random.default_rng(0).integers(0, tokenizer.size, (4, NUM_STEPS))
    hidden_BTH, after = served.core(ids_BT, np.full(4, NUM_STEPS, np.int32), served.layout.initial(4))
    exact, state = model.double(), tuple(tensor.double() for tensor in model.initial_state(4))
    with torch.no_grad():
        exact_TBH, exact_after = exact.hidden(torch.from_numpy(ids_BT), state)
    known = (exact_TBH.transpose(0, 1), *exact_after)
    return [(np.asarray(found), tensor.numpy()) for found, tensor in zip((hidden_BTH, *after), known, strict=True)]


@pytest.mark.parametrize("bias", [-14.0, -7.0, 0.0, 7.0])
def test_a_real_gated_unit_that_hardly_moves_is_exact(bias: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The root of 1 - a^2 has all digits where a is next to 1."""
    model = build_model("rg-lru", vocabulary_size=tokenizer.size, gain=1.0)
    with torch.no_grad():
        dict(model.named_parameters())["stack.layers.0.bias_gates"][:12].fill_(bias)
    for found, exact in served_and_exact(model, tokenizer, tmp_path):
        np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("cell", ["slstm", "mlstm"])
@pytest.mark.parametrize("bias", [-9.0, 0.0, 9.0, 16.0])
def test_forget_gates_that_hardly_move_are_exact(cell: str, bias: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The gate's logarithm has all digits where the gate is next to 1 and where it is next to 0."""
    model = build_model(cell, vocabulary_size=tokenizer.size, gain=1.0)
    forget = slice(24, 36) if cell == "slstm" else slice(-4, None)
    with torch.no_grad():
        dict(model.named_parameters())["stack.layers.0.bias"][forget].fill_(bias)
    for found, exact in served_and_exact(model, tokenizer, tmp_path):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=2e-5 * np.abs(exact).max())
