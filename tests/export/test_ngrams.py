"""Exported n-grams equal the network's: alone, in pieces, in any batch, and under eight-bit products."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.networks import build_model

from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_export.parity import check_parity
from carousel_export.precision import Precision
from carousel_training.checkpoint import TrainedModel


@pytest.mark.parametrize(
    ("cell", "num_layers", "block", "order"),
    [("lstm", 1, "plain", 4), ("gru", 2, "plain", 2), ("lstm-coupled", 2, "plain", 5), ("mingru", 2, "residual", 3)],
)
def test_a_bundle_with_ngrams_passes_the_exports_own_check(
    cell: str, num_layers: int, block: str, order: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Logits, states and greedy text agree over carried states, and rows keep their bits in any ragged batch."""
    model = build_model(cell, num_layers, 7, vocabulary_size=tokenizer.size, gain=1.0, block=block, ngram_order=order)
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model")
    served = OnnxModel(Bundle.load(tmp_path))
    assert served.layout.tensors[-1].name == "recent_ids"
    report = check_parity(model, served, tokenizer.start_id)
    assert report.holds, report.failures()


def test_the_check_sees_a_wrong_ngram(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A table in which two rows are exchanged fails the check: n-grams count in what is compared."""
    model = build_model("lstm", 1, 7, vocabulary_size=tokenizer.size, gain=1.0, ngram_order=3)
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model")
    served = OnnxModel(Bundle.load(tmp_path))
    assert model.ngrams is not None
    with torch.no_grad():
        model.ngrams.weight.copy_(model.ngrams.weight.roll(1, dims=0))
    assert not check_parity(model, served, tokenizer.start_id).holds


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_int8_rounds_the_sums(cell: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """With eight-bit products the logits stay close to the network's, and the last tokens are exact."""
    model = build_model(cell, 1, 12, vocabulary_size=tokenizer.size, gain=1.5, ngram_order=4)
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model", Precision.INT8)
    served = OnnxModel(Bundle.load(tmp_path))
    ids_BT = torch.randint(tokenizer.size, (3, 20))
    hidden_BTH, after = served.core(ids_BT.numpy(), np.full(3, 20, np.int32), served.layout.initial(3))
    with torch.no_grad():
        logits_BTV, known = model(ids_BT, model.initial_state(3))
    expected_NV = logits_BTV.flatten(0, 1).numpy()
    error_NV = served.logits(np.asarray(hidden_BTH).reshape((60, 12))) - expected_NV
    assert 0.0 < np.sqrt(np.mean(error_NV**2)) < 0.05 * np.std(expected_NV)
    np.testing.assert_array_equal(after[-1], known[-1].numpy())
