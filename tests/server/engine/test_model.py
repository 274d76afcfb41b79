"""The bundle's graphs behind the StepModel contract: right values, equal bits in any company, and clear refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests import bundles
from tests.bundles import Sizes
from tests.fakes import byte_tokenizer

from carousel.bundle import graphs
from carousel.bundle.layout import Array, StateBatch, StateLayout, StateTensor
from carousel.bundle.manifest import CORE_FILE, HEAD_FILE, Bundle
from carousel.engine.graph import Execution
from carousel.engine.model import OnnxModel
from carousel.errors import BundleInvalid

SIZES = Sizes()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    bundles.write_bundle(directory, SIZES)
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> OnnxModel:
    return OnnxModel(Bundle.load(directory))


def consume(model: OnnxModel, ids: Array, state: StateBatch | None = None) -> tuple[Array, StateBatch]:
    """Feeds one row alone, without padding."""
    state = model.layout.initial(1) if state is None else state
    hidden_1TH, after = model.core(ids[None], np.array([len(ids)], np.int32), state)
    return np.asarray(hidden_1TH), after


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def test_core_is_the_lstm_of_its_weights(model: OnnxModel) -> None:
    """The hidden vectors are those of a plain numpy LSTM with the graph's weights."""
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in bundles.core_graph(SIZES).graph.initializer}
    ids = np.array([1, 200, 37, 0])
    hidden_BTH, (h_BH, c_BH) = consume(model, ids)
    h, c = np.zeros(SIZES.hidden_size), np.zeros(SIZES.hidden_size)
    for column, token in enumerate(ids):
        bias = sum(np.split(weights["b"][0], 2))
        i, o, f, g = np.split(weights["w"][0] @ weights["table"][token] + weights["r"][0] @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(hidden_BTH[0, column], h, atol=1e-5)
    np.testing.assert_allclose(h_BH[0], h, atol=1e-5)
    np.testing.assert_allclose(c_BH[0], c, atol=1e-5)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64])
def test_a_row_has_the_same_bits_in_any_company(directory: Path, num_rows: int, num_threads: int) -> None:
    """Ragged rows, each from a state of its own, give bit for bit what each gives alone: core and head."""
    model = OnnxModel(Bundle.load(directory), Execution(num_threads=num_threads))
    random = np.random.default_rng(num_rows)
    lengths_B = random.integers(1, 20, num_rows).astype(np.int32)
    ids_BT = random.integers(0, SIZES.vocabulary_size, (num_rows, int(lengths_B.max())))
    shape = (num_rows, SIZES.hidden_size)
    state = tuple(random.normal(size=shape).astype(np.float32) for _ in range(2))
    hidden_BTH, after = model.core(ids_BT, lengths_B, state)
    last_BH = hidden_BTH[np.arange(num_rows), lengths_B - 1]
    logits_BV = model.logits(last_BH)
    candidates = model.candidates(last_BH, 5)
    temperatures_B = np.geomspace(0.01, 3, num_rows).astype(np.float32)
    probabilities_BV = model.probabilities(last_BH, temperatures_B)
    for row, length in enumerate(lengths_B):
        alone_1TH, alone_after = consume(model, ids_BT[row, :length], tuple(part[row : row + 1] for part in state))
        assert alone_1TH[0].tobytes() == hidden_BTH[row, :length].tobytes()
        assert all(one[0].tobytes() == other[row].tobytes() for one, other in zip(alone_after, after, strict=True))
        assert model.logits(alone_1TH[:, -1])[0].tobytes() == logits_BV[row].tobytes()
        drawn = model.probabilities(alone_1TH[:, -1], temperatures_B[row : row + 1])
        assert drawn[0].tobytes() == probabilities_BV[row].tobytes()
        alone = model.candidates(alone_1TH[:, -1], 5)
        for one, other in zip(alone, candidates, strict=True):
            assert one[0].tobytes() == other[row].tobytes()


@pytest.mark.parametrize("chunk", [1, 3, 16, 36])
def test_a_prompt_in_chunks_has_the_same_bits(model: OnnxModel, chunk: int) -> None:
    """37 tokens whole, in chunks or one by one leave the same hidden vectors and state."""
    ids = np.random.default_rng(5).integers(0, SIZES.vocabulary_size, 37)
    whole_1TH, whole_state = consume(model, ids)
    parts, state = [], model.layout.initial(1)
    for start in range(0, 37, chunk):
        hidden_1TH, state = consume(model, ids[start : start + chunk], state)
        parts.append(hidden_1TH)
    assert np.concatenate(parts, axis=1).tobytes() == whole_1TH.tobytes()
    for one, other in zip(state, whole_state, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_arguments_are_not_written_to(model: OnnxModel) -> None:
    """A call does not change its ids, lengths and state, and its results are not views of them."""
    ids_BT, lengths_B = np.array([[1, 2], [3, 0]]), np.array([2, 1], np.int32)
    state = model.layout.initial(2)
    before = [np.asarray(array).tobytes() for array in (ids_BT, lengths_B, *state)]
    _, after = model.core(ids_BT, lengths_B, state)
    for array in after:
        np.asarray(array)[:] = 9
    assert [np.asarray(array).tobytes() for array in (ids_BT, lengths_B, *state)] == before


def test_the_three_readings_of_the_head_agree(model: OnnxModel) -> None:
    """Logits, candidates and scores of the same hidden vectors say the same."""
    hidden_NH = np.random.default_rng(1).normal(size=(6, SIZES.hidden_size)).astype(np.float32)
    logits_NV = model.logits(hidden_NH).astype(np.float64)
    log_probs_NV = logits_NV - np.log(np.exp(logits_NV - logits_NV.max(1, keepdims=True)).sum(1, keepdims=True))
    log_probs_NV -= logits_NV.max(1, keepdims=True)
    candidates = model.candidates(hidden_NH, 7)
    np.testing.assert_array_equal(candidates.ids_NK, np.argsort(-logits_NV, axis=1, kind="stable")[:, :7])
    expected = np.take_along_axis(log_probs_NV, candidates.ids_NK, axis=1)
    np.testing.assert_allclose(candidates.log_probs_NK, expected, atol=1e-5)
    targets_N = np.array([0, 3, 255, 9, 9, 100])
    scores = model.score(hidden_NH, targets_N)
    np.testing.assert_allclose(scores.log_probs_N, log_probs_NV[np.arange(6), targets_N], atol=1e-5)
    order = np.argsort(-logits_NV, axis=1, kind="stable")
    assert scores.ranks_N.tolist() == [order[n].tolist().index(t) + 1 for n, t in enumerate(targets_N)]


def test_more_candidates_than_tokens_are_all_tokens(model: OnnxModel) -> None:
    """A request for more than the vocabulary gives the whole vocabulary."""
    found = model.candidates(np.zeros((1, SIZES.hidden_size), np.float32), 10_000)
    assert sorted(found.ids_NK[0].tolist()) == list(range(SIZES.vocabulary_size))


def test_equal_logits_rank_the_lower_id_first(tmp_path: Path) -> None:
    """With all logits equal the candidates are the lowest ids, and every target has rank 1."""
    graph = bundles.head_graph(SIZES)
    for constant in graph.graph.initializer:
        if constant.name in ("w", "b"):
            constant.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(constant), constant.name))
    model = OnnxModel(with_graph(tmp_path, HEAD_FILE, graph))
    hidden_NH = np.ones((2, SIZES.hidden_size), np.float32)
    assert model.candidates(hidden_NH, 4).ids_NK.tolist() == [[0, 1, 2, 3]] * 2
    assert model.score(hidden_NH, np.array([5, 250])).ranks_N.tolist() == [1, 1]


def test_it_says_where_it_runs(model: OnnxModel) -> None:
    """The provider in use is known by its short name."""
    assert model.provider == "cpu"
    assert "cpu" in repr(model)
    assert model.runtime_version == onnxruntime.__version__


def with_graph(directory: Path, name: str, graph: onnx.ModelProto) -> Bundle:
    """Makes a bundle that is valid except for one graph, which its manifest nevertheless signs."""
    bundles.write_bundle(directory, SIZES)
    (directory / name).write_bytes(graph.SerializeToString())
    bundles.sign(directory, SIZES, byte_tokenizer())
    return Bundle.load(directory)


def renamed(graph: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for port in (*graph.graph.input, *graph.graph.output):
        port.name = new if port.name == old else port.name
    return graph


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *((CORE_FILE, name) for name in (graphs.IDS, graphs.LENGTHS, graphs.HIDDEN, "h", "c", "h_next", "c_next")),
        *((HEAD_FILE, name) for name in (graphs.HIDDEN, graphs.TARGETS, graphs.NUM_CANDIDATES, graphs.TEMPERATURES)),
        *((HEAD_FILE, name) for name in (graphs.LOGITS, graphs.CANDIDATE_IDS, graphs.CANDIDATE_LOGITS)),
        *(
            (HEAD_FILE, name)
            for name in (graphs.LOG_NORMALIZER, graphs.TARGET_LOGITS, graphs.TARGET_RANKS, graphs.PROBABILITIES)
        ),
    ],
)
def test_a_graph_that_lacks_a_name_is_refused(tmp_path: Path, file: str, name: str) -> None:
    """Each input and output that is needed must be there; the error names the file and what is missing."""
    make = bundles.core_graph if file == CORE_FILE else bundles.head_graph
    bundle = with_graph(tmp_path, file, renamed(make(SIZES), name, "something_else"))
    with pytest.raises(BundleInvalid, match=f"{file}: .*{name}"):
        OnnxModel(bundle)


def test_a_graph_that_is_not_one_is_refused(tmp_path: Path) -> None:
    """Bytes that onnxruntime cannot read, though properly signed, are BundleInvalid with the file's name."""
    bundles.write_bundle(tmp_path, SIZES)
    (tmp_path / CORE_FILE).write_bytes(b"not a graph")
    bundles.sign(tmp_path, SIZES, byte_tokenizer())
    with pytest.raises(BundleInvalid, match=CORE_FILE):
        OnnxModel(Bundle.load(tmp_path))


@pytest.mark.parametrize("where", ["weights.bin", "../outside.bin", "absolute", "linked.bin"])
def test_weights_outside_the_graph_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A graph whose weights lie in another file, wherever that is, does not load."""
    content = np.zeros((SIZES.vocabulary_size, SIZES.embedding_size), np.float32).tobytes()
    directory = tmp_path / "bundle"
    directory.mkdir()
    for path in (tmp_path / "outside.bin", directory / "weights.bin"):
        path.write_bytes(content)
    (directory / "linked.bin").symlink_to(tmp_path / "outside.bin")
    location = str(tmp_path / "outside.bin") if where == "absolute" else where
    graph = bundles.core_graph(SIZES)
    table = next(one for one in graph.graph.initializer if one.name == "table")
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value=location)
    table.external_data.add(key="length", value=str(len(content)))
    bundle = with_graph(directory, CORE_FILE, graph)
    monkeypatch.chdir(directory)
    with pytest.raises(BundleInvalid, match=CORE_FILE):
        OnnxModel(bundle)


def test_a_head_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    """Logits of another width than the manifest's vocabulary cannot be served."""
    bundle = with_graph(tmp_path, HEAD_FILE, bundles.head_graph(Sizes(vocabulary_size=300)))
    with pytest.raises(BundleInvalid, match=f"{HEAD_FILE}.*300"):
        OnnxModel(bundle)


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (StateTensor("h", (13,), "float32"), r"h has rows of tensor\(float\) \[12\]; the manifest says float32 \[13\]"),
        (StateTensor("h", (3, 4), "float32"), r"the manifest says float32 \[3, 4\]"),
        (StateTensor("h", (), "float32"), r"the manifest says float32 \[\]"),
        (StateTensor("h", (12,), "int64"), r"the manifest says int64 \[12\]"),
    ],
)
def test_a_state_that_the_graph_does_not_have_is_refused(tmp_path: Path, tensor: StateTensor, sentence: str) -> None:
    """Another shape or type than the core's is an error when the bundle is loaded, not at the first step."""
    manifest = bundles.write_bundle(tmp_path, SIZES)
    replace(manifest, state=StateLayout((tensor, manifest.state.tensors[1]))).save(tmp_path)
    with pytest.raises(BundleInvalid, match=f"{CORE_FILE}: .*{sentence}"):
        OnnxModel(Bundle.load(tmp_path))


def test_a_next_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    """What a step gives must fit what the next one takes."""
    graph = renamed(bundles.core_graph(SIZES), "c_next", "c_once")
    graph.graph.node.append(helper.make_node("Concat", ["c_once", "c_once"], ["c_next"], axis=1))
    port = next(one for one in graph.graph.output if one.name == "c_once")
    port.name = "c_next"
    port.type.tensor_type.shape.dim[1].dim_value = 24
    with pytest.raises(BundleInvalid, match=rf"{CORE_FILE}: c_next has rows of tensor\(float\) \[24\]"):
        OnnxModel(with_graph(tmp_path, CORE_FILE, graph))


def test_hidden_vectors_of_another_width_are_refused(tmp_path: Path) -> None:
    """The manifest's width is that of both graphs; otherwise the head would fail at the core's vectors."""
    replace(bundles.write_bundle(tmp_path, SIZES), hidden_size=13).save(tmp_path)
    with pytest.raises(BundleInvalid, match=f"{CORE_FILE} has hidden vectors of 12; the manifest says 13"):
        OnnxModel(Bundle.load(tmp_path))
    head = bundles.head_graph(Sizes(hidden_size=13))
    with pytest.raises(BundleInvalid, match=f"{HEAD_FILE} has hidden vectors of 13; the manifest says 12"):
        OnnxModel(with_graph(tmp_path, HEAD_FILE, head))


def test_a_node_that_the_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    """An operator of a foreign domain fails at loading, not at the first request."""
    graph = bundles.core_graph(SIZES)
    graph.opset_import.append(helper.make_opsetid("elsewhere", 1))
    graph.graph.node[0].domain = "elsewhere"
    with pytest.raises(BundleInvalid, match=CORE_FILE):
        OnnxModel(with_graph(tmp_path, CORE_FILE, graph))
