"""What the server promises, for every cell and through the server's own model class: a row's bits do not depend on who
shares its batch, nor on how its tokens are cut into calls."""

from pathlib import Path

import numpy as np
import pytest
from tests.export.networks import build_model

from carousel.bundle.layout import Array, StateBatch
from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_export.cell_exports import INT8_CELLS
from carousel_export.parity import check_parity
from carousel_export.precision import Precision
from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel

NUM_LANES = 64
NUM_TOKENS = 23


KINDS = [*((cell, Precision.FLOAT32) for cell in CELLS), *((cell, Precision.INT8) for cell in INT8_CELLS)]


@pytest.fixture(params=KINDS, ids="-".join)
def served(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path: Path) -> OnnxModel:
    """Two layers of each cell, of widths that are no multiple of a vector register."""
    cell, precision = request.param
    model = build_model(cell, 2, 7, vocabulary_size=tokenizer.size)
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model", precision)
    return OnnxModel(Bundle.load(tmp_path))


def run(served: OnnxModel, ids_BT: Array, state: StateBatch) -> tuple[Array, StateBatch]:
    hidden_BTH, after = served.core(ids_BT, np.full(len(ids_BT), ids_BT.shape[1], np.int32), state)
    return np.asarray(hidden_BTH), after


def test_a_row_is_the_same_alone_and_in_every_batch(served: OnnxModel) -> None:
    """Hidden vectors and states of 64 lanes equal those of any part of them, down to one lane."""
    ids_BT = np.random.default_rng(0).integers(0, served.vocabulary_size, (NUM_LANES, NUM_TOKENS))
    hidden_BTH, after = run(served, ids_BT, served.layout.initial(NUM_LANES))
    for size in (1, 2, 3, 5, 8, 17, 32):
        for start in range(0, NUM_LANES - size + 1, max(size, 9)):
            cut = slice(start, start + size)
            part_BTH, part_after = run(served, ids_BT[cut], served.layout.initial(size))
            np.testing.assert_array_equal(part_BTH, hidden_BTH[cut])
            for found, expected in zip(part_after, after, strict=True):
                np.testing.assert_array_equal(found, expected[cut])


def test_a_text_is_the_same_whole_in_chunks_and_token_by_token(served: OnnxModel) -> None:
    """However a text is cut into calls, the last state and every hidden vector have the same bits."""
    ids_BT = np.random.default_rng(1).integers(0, served.vocabulary_size, (4, NUM_TOKENS))
    hidden_BTH, after = run(served, ids_BT, served.layout.initial(4))
    for size in (1, 2, 7, 16):
        state, pieces = served.layout.initial(4), []
        for start in range(0, NUM_TOKENS, size):
            piece_BTH, state = run(served, ids_BT[:, start : start + size], state)
            pieces.append(piece_BTH)
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), hidden_BTH)
        for found, expected in zip(state, after, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_padding_changes_nothing(served: OnnxModel) -> None:
    """A row that is shorter than the batch gets the state and the hidden vectors of its own length."""
    rng = np.random.default_rng(2)
    ids_BT = rng.integers(0, served.vocabulary_size, (9, NUM_TOKENS))
    lengths_B = np.array([1, 23, 2, 5, 22, 9, 1, 16, 3], np.int32)
    hidden_BTH, after = served.core(ids_BT, lengths_B, served.layout.initial(9))
    for row, length in enumerate(lengths_B):
        alone_1TH, alone = run(served, ids_BT[row : row + 1, :length], served.layout.initial(1))
        np.testing.assert_array_equal(alone_1TH[0], hidden_BTH[row, :length])
        for found, expected in zip(alone, after, strict=True):
            np.testing.assert_array_equal(found[0], expected[row])


def test_what_the_head_says_of_a_row_is_the_same_alone_and_in_every_batch(served: OnnxModel) -> None:
    """Logits, probabilities, candidates, normaliser, scores and ranks, over rows of very different sizes."""
    rng = np.random.default_rng(3)
    hidden_NH = np.tanh(rng.standard_normal((NUM_LANES, 12)) * np.logspace(-3, 1, NUM_LANES)[:, None]).astype(
        np.float32
    )
    targets_N = rng.integers(0, served.vocabulary_size, NUM_LANES)
    temperatures_N = np.geomspace(1e-3, 100, NUM_LANES).astype(np.float32)

    def everything(cut: slice) -> list[Array]:
        rows = hidden_NH[cut]
        drawn = served.probabilities(rows, temperatures_N[cut])
        return [served.logits(rows), drawn, *served.candidates(rows, 5), *served.score(rows, targets_N[cut])]

    together = everything(slice(None))
    for size in (1, 2, 3, 5, 8, 17, 32):
        for start in range(0, NUM_LANES - size + 1, max(size, 9)):
            cut = slice(start, start + size)
            for found, expected in zip(everything(cut), together, strict=True):
                np.testing.assert_array_equal(found, expected[cut])


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("num_layers", [1, 2])
def test_every_cell_passes_the_exports_own_check(
    cell: str, num_layers: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Logits, states, greedy text and rows agree with the network over carried states and ragged, shuffled batches."""
    model = build_model(cell, num_layers, 7, vocabulary_size=tokenizer.size, gain=1.0)
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model")
    report = check_parity(model, OnnxModel(Bundle.load(tmp_path)), tokenizer.start_id)
    assert report.holds, report.failures()
