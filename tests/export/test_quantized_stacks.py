"""Networks with eight-bit products: close to the network, the same contract, a quarter of the weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from tests.export.networks import build_model

from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_export.cell_exports import INT8_CELLS
from carousel_export.errors import PrecisionRefused
from carousel_export.graphs import build_core, build_head
from carousel_export.precision import Precision
from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel

SHAPES = [
    (cell, num_layers, embedding_size, tied)
    for cell in INT8_CELLS
    for num_layers, embedding_size, tied in ((1, 12, True), (2, 7, True), (3, 7, False))
]


@pytest.mark.parametrize(("cell", "num_layers", "embedding_size", "tied"), SHAPES)
def test_logits_and_states_are_close_to_the_networks(
    cell: str, num_layers: int, embedding_size: int, tied: bool, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """After 20 tokens from a state that is not zero, with and without a projection, rounding has moved logits by a
    small share of how much they differ; another gate order or a forgotten bias would move them by all of it."""
    model = build_model(cell, num_layers, embedding_size, tied=tied, vocabulary_size=tokenizer.size, gain=1.5)
    write_files(TrainedModel(model, tokenizer, {}), tmp_path, "model", Precision.INT8)
    served = OnnxModel(Bundle.load(tmp_path))
    state = tuple(torch.rand_like(tensor) - 0.5 for tensor in model.initial_state(3))
    ids_BT = torch.randint(tokenizer.size, (3, 20))
    hidden_BTH, found = served.core(ids_BT.numpy(), np.full(3, 20, np.int32), tuple(t.numpy() for t in state))
    with torch.no_grad():
        logits_BTV, known = model(ids_BT, state)
    expected_NV = logits_BTV.flatten(0, 1).numpy()
    error_NV = served.logits(hidden_BTH.reshape((60, 12))) - expected_NV
    assert 0.0 < np.sqrt(np.mean(error_NV**2)) < 0.05 * np.std(expected_NV)
    for ours, theirs in zip(found, known, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=0.05 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in INT8_CELLS])
def test_other_cells_are_refused_by_name(cell: str) -> None:
    """The sentence names the cells that can."""
    with pytest.raises(
        PrecisionRefused, match=f"int8 is for the cells lstm, gru, gru-2014; this model's cell is {cell}"
    ):
        build_core(build_model(cell, 2), Precision.INT8)


@pytest.mark.parametrize("cell", list(INT8_CELLS))
def test_the_contract_is_the_float_graphs(cell: str) -> None:
    """Inputs and outputs have the same names, types and shapes, so that sessions and snapshots know no precision."""
    model = build_model(cell, 2, 7)
    for build in (build_core, build_head):
        exact, rounded = build(model).graph, build(model, Precision.INT8).graph
        assert list(exact.input) == list(rounded.input)
        assert list(exact.output) == list(rounded.output)


def test_every_large_constant_is_a_byte_each() -> None:
    """No matrix is kept as floats, in loops either: what is left in float32 grows with the sides, not the area."""

    def constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
        bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        return [*graph.initializer, *(constant for body in bodies for constant in constants(body))]

    model = build_model("lstm", 2, 7)
    found = [*constants(build_core(model, Precision.INT8).graph), *constants(build_head(model, Precision.INT8).graph)]
    matrices = [constant for constant in found if len(constant.dims) == 2 and min(constant.dims) > 1]
    assert len(matrices) == 7  # embedding, two products for each layer, projection, output
    assert {constant.data_type for constant in matrices} == {TensorProto.INT8, TensorProto.UINT8}


def test_precision_is_in_the_manifest_and_in_the_digest(trained: TrainedModel, tmp_path: Path) -> None:
    """One network makes two models, which must not take over each other's sessions."""
    digests = set()
    for precision in Precision:
        (tmp_path / precision).mkdir()
        manifest = write_files(trained, tmp_path / precision, "fox", precision)
        assert Bundle.load(tmp_path / precision).manifest.precision == precision
        digests.add(manifest.digest)
    assert len(digests) == 2
