"""Residual blocks around every cell compute what the network does, with equal bits in any company and cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.networks import build_model

from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_export.errors import PrecisionRefused
from carousel_export.graphs import build_core
from carousel_export.parity import check_parity
from carousel_export.precision import Precision
from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel
from carousel_training.settings import CELLS_WITHOUT_BLOCKS

IN_BLOCKS = [cell for cell in CELLS if cell not in CELLS_WITHOUT_BLOCKS]


@pytest.mark.parametrize(
    ("cell", "num_layers", "embedding_size"), [*((cell, 2, 7) for cell in IN_BLOCKS), ("lstm", 1, 12), ("mlstm", 1, 12)]
)
def test_blocks_pass_the_exports_own_check(
    cell: str, num_layers: int, embedding_size: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Logits, states and greedy text agree, and rows do not depend on their batch, with the input's width and
    another."""
    options = {"vocabulary_size": tokenizer.size, "gain": 1.0}
    model = build_model(cell, num_layers, embedding_size, block="residual", **options)  # type: ignore[arg-type]
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model")
    bundle = Bundle.load(tmp_path)
    report = check_parity(model, OnnxModel(bundle), tokenizer.start_id)
    assert report.holds, report.failures()
    assert bundle.manifest.block == "residual"


@pytest.mark.parametrize("cell", IN_BLOCKS)
def test_a_text_is_the_same_in_chunks_and_in_company(cell: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """64 lanes of 23 tokens at once, and a few lanes at a time in pieces, have the same bits."""
    model = build_model(cell, 2, 7, vocabulary_size=tokenizer.size, block="residual")
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model")
    served = OnnxModel(Bundle.load(tmp_path))
    ids_BT = np.random.default_rng(1).integers(0, tokenizer.size, (64, 23))
    hidden_BTH, after = served.core(ids_BT, np.full(64, 23, np.int32), served.layout.initial(64))
    for lanes, size in ((slice(0, 1), 1), (slice(5, 8), 7), (slice(9, 64), 16)):
        state, pieces = served.layout.initial(len(ids_BT[lanes])), []
        for start in range(0, 23, size):
            cut_BT = ids_BT[lanes, start : start + size]
            piece_BTH, state = served.core(cut_BT, np.full(len(cut_BT), cut_BT.shape[1], np.int32), state)
            pieces.append(piece_BTH)
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), hidden_BTH[lanes])
        for found, expected in zip(state, after, strict=True):
            np.testing.assert_array_equal(found, expected[lanes])


def test_a_word_of_zeros_is_no_trouble(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Where the stream is zero, its norm is zero in both."""
    model = build_model("mingru", 1, vocabulary_size=tokenizer.size, block="residual")
    with torch.no_grad():
        model.embedding.weight[3].zero_()
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model")
    ids_BT = np.full((1, 2), 3)
    found_BTH, _ = OnnxModel(served := Bundle.load(tmp_path)).core(
        ids_BT, np.full(1, 2, np.int32), served.manifest.state.initial(1)
    )
    with torch.no_grad():
        hidden_TBH, _ = model.hidden(torch.from_numpy(ids_BT), model.initial_state(1))
    np.testing.assert_allclose(found_BTH[0], hidden_TBH[:, 0], atol=2e-5)


def test_eight_bit_products_are_for_plain_stacks() -> None:
    """A cell that has them in a plain stack is refused in blocks, and the sentence says why."""
    with pytest.raises(PrecisionRefused, match="int8 is for plain stacks; this model's blocks are residual"):
        build_core(build_model("gru", 2, block="residual"), Precision.INT8)
