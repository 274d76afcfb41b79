"""The graphs compute what the network does from which they are written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.export.networks import build_model

from carousel.bundle import graphs as names
from carousel.bundle.layout import Array
from carousel.bundle.manifest import Bundle
from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.model import OnnxModel
from carousel_export.bundle_writer import write_files
from carousel_export.graphs import build_core, build_head
from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import State
from carousel_training.checkpoint import TrainedModel
from carousel_training.evaluate import SamplePlan, sample
from carousel_training.model import RecurrentLM

SHAPES = [
    (cell, num_layers, embedding_size, tied)
    for cell in CELLS
    for num_layers, embedding_size, tied in ((1, 12, True), (2, 7, True), (3, 7, False))
]


def serve(model: RecurrentLM, tokenizer: Tokenizer, directory: Path) -> OnnxModel:
    write_files(TrainedModel(model, tokenizer, {}), directory, "model")
    return OnnxModel(Bundle.load(directory))


def random_state(model: RecurrentLM, num_lanes: int) -> State:
    """Makes random floats; a counter or a window is as if some tokens had been read."""
    state = tuple(torch.randn_like(t) * 0.5 if t.is_floating_point() else t for t in model.initial_state(num_lanes))
    with torch.no_grad():
        _, after = model(torch.randint(model.config.vocabulary_size, (num_lanes, 3)), state)
    return tuple(after)


def run_head(
    model: RecurrentLM, hidden_NH: Array, targets_N: Array, num_candidates: int, temperatures_N: Sequence[float] = ()
) -> dict[str, Array]:
    """Runs the head and returns all outputs by name."""
    session = onnxruntime.InferenceSession(build_head(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {names.HIDDEN: hidden_NH, names.TARGETS: targets_N, names.NUM_CANDIDATES: np.array([num_candidates])}
    feed[names.TEMPERATURES] = np.array(temperatures_N, np.float32)
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feed), strict=True))


@pytest.mark.parametrize(("cell", "num_layers", "embedding_size", "tied"), SHAPES)
def test_graphs_equal_torch(
    cell: str, num_layers: int, embedding_size: int, tied: bool, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Core and head in sequence give the network's logits and states, from a nonzero state."""
    model = build_model(cell, num_layers, embedding_size, tied=tied, vocabulary_size=tokenizer.size)
    served = serve(model, tokenizer, tmp_path)
    ids_BT = torch.randint(tokenizer.size, (3, 6))
    state = random_state(model, 3)
    batch = tuple(tensor.numpy() for tensor in state)
    hidden_BTH, batch_next = served.core(ids_BT.numpy(), np.full(3, 6, np.int32), batch)
    with torch.no_grad():
        logits_BTV, state_next = model(ids_BT, state)
    np.testing.assert_allclose(served.logits(hidden_BTH.reshape((18, 12))), logits_BTV.flatten(0, 1), atol=2e-5)
    for found, wanted in zip(batch_next, state_next, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("cell", list(CELLS))
def test_greedy_text_equals_torchs(cell: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """After each of ten prompts, the served model writes the network's 20 tokens, each from the one before."""
    model = build_model(cell, 2, 7, tied=False, vocabulary_size=tokenizer.size)
    with torch.no_grad():
        model.embedding.weight.normal_(std=3.0)
        model.output_weight.normal_()
    served = serve(model, tokenizer, tmp_path)
    texts = set()
    for prompt in torch.randint(tokenizer.size, (10, 6)).tolist():
        ids, state, written = prompt, served.layout.initial(1), list[int]()
        for _ in range(20):
            hidden_BTH, state = served.core(np.array([ids]), np.full(1, len(ids), np.int32), state)
            written.append(int(served.candidates(hidden_BTH[0, -1:], 1).ids_NK[0, 0]))
            ids = written[-1:]
        assert written == sample(model, prompt, SamplePlan(20, 0.0, 0))
        texts.add(tuple(written))
    assert len(texts) > 2


def test_the_layout_lists_states_from_the_bottom_up() -> None:
    """Names, order and shapes are those of the plan."""
    assert [(t.name, t.shape, t.dtype, t.initial) for t in build_model("lstm", 2).state_layout.tensors] == [
        ("h_0", (12,), "float32", 0.0),
        ("c_0", (12,), "float32", 0.0),
        ("h_1", (12,), "float32", 0.0),
        ("c_1", (12,), "float32", 0.0),
    ]
    assert [tensor.name for tensor in build_model("gru", 2).state_layout.tensors] == ["h_0", "h_1"]


def test_files_are_of_the_promised_versions() -> None:
    """Opset 21 and IR 10 load in onnxruntime 1.18 and later; batch and time have names, not numbers."""
    for graph in (build_core(build_model()), build_head(build_model())):
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 21)]
        assert graph.ir_version == 10
        onnx.checker.check_model(graph, full_check=True)
    ids, lengths, *_ = build_core(build_model()).graph.input
    assert [dimension.dim_param for dimension in ids.type.tensor_type.shape.dim] == ["B", "T"]
    assert [dimension.dim_param for dimension in lengths.type.tensor_type.shape.dim] == ["B"]


def test_head_reads_candidates_normaliser_and_targets_from_the_logits() -> None:
    """Numpy makes every output of the head from its logits; K may be 1 or the whole vocabulary."""
    model, rng = build_model(), np.random.default_rng(0)
    hidden_NH = rng.standard_normal((5, 12)).astype(np.float32)
    targets_N = rng.integers(0, 29, 5)
    for num_candidates in (1, 4, 29):
        found = run_head(model, hidden_NH, targets_N, num_candidates)
        logits_NV = found[names.LOGITS]
        order_NK = np.argsort(-logits_NV, axis=1, kind="stable")[:, :num_candidates]
        np.testing.assert_array_equal(found[names.CANDIDATE_IDS], order_NK)
        np.testing.assert_array_equal(found[names.CANDIDATE_LOGITS], np.take_along_axis(logits_NV, order_NK, axis=1))
        expected_N = torch.logsumexp(torch.from_numpy(logits_NV), 1).numpy()
        np.testing.assert_allclose(found[names.LOG_NORMALIZER], expected_N, rtol=1e-6)
        target_N = logits_NV[np.arange(5), targets_N]
        np.testing.assert_array_equal(found[names.TARGET_LOGITS], target_N)
        np.testing.assert_array_equal(found[names.TARGET_RANKS], (logits_NV > target_N[:, None]).sum(1))


def test_a_call_without_targets_gives_none() -> None:
    """Without targets there are no scores, at no cost, and everything else is as with them."""
    model, hidden_NH = build_model(), np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    asked = run_head(model, hidden_NH, np.arange(5), 4)
    found = run_head(model, hidden_NH, np.empty(0, np.int64), 4)
    assert found[names.TARGET_LOGITS].shape == found[names.TARGET_RANKS].shape == (0,)
    assert found[names.PROBABILITIES].shape == (0, 29)
    for name in (names.LOGITS, names.CANDIDATE_IDS, names.CANDIDATE_LOGITS, names.LOG_NORMALIZER):
        np.testing.assert_array_equal(found[name], asked[name])


def test_probabilities_are_at_each_rows_temperature() -> None:
    """Cold rows are certain of their likeliest token, hot ones of none; every row adds up to one."""
    hidden_NH = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
    temperatures_N = np.array([1e-3, 0.5, 1.0, 1e4])
    found = run_head(build_model(), hidden_NH, np.empty(0, np.int64), 1, list(temperatures_N))
    logits_NV = torch.from_numpy(found[names.LOGITS]).double() / torch.from_numpy(temperatures_N)[:, None]
    expected_NV = torch.softmax(logits_NV, 1).numpy()
    np.testing.assert_allclose(found[names.PROBABILITIES], expected_NV, atol=1e-4)
    np.testing.assert_allclose(found[names.PROBABILITIES][1:], expected_NV[1:], rtol=1e-5)
    assert found[names.PROBABILITIES][0].argmax() == found[names.CANDIDATE_IDS][0, 0]


def test_equal_logits_come_lower_id_first_and_share_a_rank() -> None:
    """With all weights zero, every logit is equal: candidates are 0, 1, 2, ... and all share the first rank."""
    model = build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for num_candidates in (1, 5, 29):
        found = run_head(model, np.ones((2, 12), np.float32), np.array([28, 3]), num_candidates)
        np.testing.assert_array_equal(found[names.CANDIDATE_IDS], [list(range(num_candidates))] * 2)
        np.testing.assert_array_equal(found[names.TARGET_RANKS], [0, 0])


def test_the_normaliser_survives_huge_logits() -> None:
    """Logits of a thousand overflow exp() in float32; the log-sum-exp is still right."""
    model = build_model()
    with torch.no_grad():
        model.output_bias.fill_(1000.0)
        model.output_bias[0] = -1000.0
    found = run_head(model, np.zeros((1, 12), np.float32), np.array([0]), 1)
    np.testing.assert_allclose(found[names.LOG_NORMALIZER], [1000.0 + np.log(28.0)], rtol=1e-6)


def test_the_normaliser_of_a_large_vocabulary_keeps_its_digits() -> None:
    """The sum of 33,278 logits, most of them small, equals double precision's to a few units in 1e-6."""
    model, rng = build_model(vocabulary_size=33_278), np.random.default_rng(0)
    hidden_NH = rng.standard_normal((3, 12)).astype(np.float32)
    found = run_head(model, hidden_NH, np.zeros(3, np.int64), 1)
    expected_N = torch.logsumexp(torch.from_numpy(found[names.LOGITS]).double(), 1).numpy()
    np.testing.assert_allclose(found[names.LOG_NORMALIZER], expected_N, atol=1e-5)
