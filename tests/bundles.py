"""Writes a small real bundle from random weights: an LSTM layer and a linear head, as the contract of the graphs says.

Legend: B rows, T tokens, E embedding width, H hidden width, N rows of hidden vectors, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.fakes import byte_tokenizer

from carousel.bundle import graphs
from carousel.bundle.chat import ChatFormat
from carousel.bundle.layout import Array, StateLayout, StateTensor
from carousel.bundle.manifest import CORE_FILE, HEAD_FILE, Manifest, file_digest
from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel.bundle.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sizes:
    vocabulary_size: int = 256
    hidden_size: int = 12
    embedding_size: int = 6
    seed: int = 0

    @property
    def layout(self) -> StateLayout:
        return StateLayout(tuple(StateTensor(name, (self.hidden_size,), "float32") for name in ("h", "c")))


def write_bundle(
    directory: Path, sizes: Sizes = Sizes(), tokenizer: Tokenizer | None = None, chat: ChatFormat | None = None
) -> Manifest:
    """Writes a whole bundle, with the byte tokenizer unless another one is given."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or byte_tokenizer()
    tokenizer.save(directory / TOKENIZER_FILE)
    (directory / CORE_FILE).write_bytes(core_graph(sizes).SerializeToString())
    (directory / HEAD_FILE).write_bytes(head_graph(sizes).SerializeToString())
    return sign(directory, sizes, tokenizer, chat)


def sign(directory: Path, sizes: Sizes, tokenizer: Tokenizer, chat: ChatFormat | None = None) -> Manifest:
    """Writes a manifest for the files as they are."""
    manifest = Manifest(
        name="tiny",
        cell="lstm",
        num_layers=1,
        hidden_size=sizes.hidden_size,
        vocabulary_size=sizes.vocabulary_size,
        num_parameters=1,
        precision="float32",
        tokenizer_kind=tokenizer.kind,
        start_id=tokenizer.start_id,
        state=sizes.layout,
        files={name: file_digest(directory / name) for name in (CORE_FILE, HEAD_FILE, TOKENIZER_FILE)},
        training={"corpus": "none"},
        chat=chat,
    )
    manifest.save(directory)
    return manifest


def core_graph(sizes: Sizes) -> onnx.ModelProto:
    """Makes the core: ids_BT, lengths_B, h_BH, c_BH -> hidden_BTH and the next h_BH, c_BH."""
    random = np.random.default_rng(sizes.seed)
    hidden, embedding = sizes.hidden_size, sizes.embedding_size
    constants = {
        "table": random.normal(size=(sizes.vocabulary_size, embedding)),
        "w": random.normal(size=(1, 4 * hidden, embedding)),
        "r": random.normal(size=(1, 4 * hidden, hidden)),
        "b": random.normal(size=(1, 8 * hidden)),
    }
    nodes = [
        helper.make_node("Transpose", [graphs.IDS], ["ids_TB"], perm=[1, 0]),
        helper.make_node("Gather", ["table", "ids_TB"], ["embedded_TBE"]),
        *(helper.make_node("Unsqueeze", [name, "first"], [f"{name}_1BH"]) for name in ("h", "c")),
        helper.make_node(
            "LSTM",
            ["embedded_TBE", "w", "r", "b", graphs.LENGTHS, "h_1BH", "c_1BH"],
            ["y_T1BH", "h_after", "c_after"],
            hidden_size=hidden,
        ),
        *(helper.make_node("Squeeze", [f"{name}_after", "first"], [f"{name}_next"]) for name in ("h", "c")),
        helper.make_node("Squeeze", ["y_T1BH", "second"], ["y_TBH"]),
        helper.make_node("Transpose", ["y_TBH"], [graphs.HIDDEN], perm=[1, 0, 2]),
    ]
    inputs = [
        describe(graphs.IDS, ["B", "T"], TensorProto.INT64),
        describe(graphs.LENGTHS, ["B"], TensorProto.INT32),
        *(describe(name, ["B", hidden]) for name in ("h", "c")),
    ]
    outputs = [
        describe(graphs.HIDDEN, ["B", "T", hidden]),
        *(describe(f"{name}_next", ["B", hidden]) for name in ("h", "c")),
    ]
    return model("core", nodes, inputs, outputs, constants)


def head_graph(sizes: Sizes) -> onnx.ModelProto:
    """Makes the head: hidden_NH, targets_N, num_candidates, temperatures_N -> all that `carousel.bundle.graphs`
    lists."""
    random = np.random.default_rng(sizes.seed + 1)
    constants = {
        "w": 3 * random.normal(size=(sizes.hidden_size, sizes.vocabulary_size)),
        "b": random.normal(size=sizes.vocabulary_size),
    }
    nodes = [
        helper.make_node("Gemm", [graphs.HIDDEN, "w", "b"], [graphs.LOGITS]),
        helper.make_node(
            "TopK", [graphs.LOGITS, graphs.NUM_CANDIDATES], [graphs.CANDIDATE_LOGITS, graphs.CANDIDATE_IDS]
        ),
        helper.make_node("ReduceMax", [graphs.LOGITS, "second"], ["top_N1"]),
        helper.make_node("Sub", [graphs.LOGITS, "top_N1"], ["below_NV"]),
        helper.make_node("Exp", ["below_NV"], ["weights_NV"]),
        # Not ReduceSum and Log: a Log over rows rounds the last few of them, which miss a vector register, otherwise.
        helper.make_node("ReduceLogSum", ["weights_NV", "second"], ["log_sum_N1"]),
        helper.make_node("Add", ["log_sum_N1", "top_N1"], ["normalizer_N1"]),
        helper.make_node("Squeeze", ["normalizer_N1", "second"], [graphs.LOG_NORMALIZER]),
        helper.make_node("Shape", [graphs.TARGETS], ["num_targets"]),
        helper.make_node("Slice", [graphs.LOGITS, "first", "num_targets", "first"], ["logits_MV"]),
        helper.make_node("Unsqueeze", [graphs.TARGETS, "second"], ["targets_M1"]),
        helper.make_node("GatherElements", ["logits_MV", "targets_M1"], ["target_M1"], axis=1),
        helper.make_node("Squeeze", ["target_M1", "second"], [graphs.TARGET_LOGITS]),
        helper.make_node("Greater", ["logits_MV", "target_M1"], ["is_above_MV"]),
        helper.make_node("Cast", ["is_above_MV"], ["above_MV"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["above_MV", "second"], [graphs.TARGET_RANKS], keepdims=0),
        helper.make_node("Shape", [graphs.TEMPERATURES], ["num_drawn"]),
        helper.make_node("Slice", [graphs.LOGITS, "first", "num_drawn", "first"], ["logits_DV"]),
        helper.make_node("Unsqueeze", [graphs.TEMPERATURES, "second"], ["temperatures_D1"]),
        helper.make_node("Div", ["logits_DV", "temperatures_D1"], ["tempered_DV"]),
        helper.make_node("Softmax", ["tempered_DV"], [graphs.PROBABILITIES], axis=-1),
    ]
    inputs = [
        describe(graphs.HIDDEN, ["N", sizes.hidden_size]),
        describe(graphs.TARGETS, ["M"], TensorProto.INT64),
        describe(graphs.NUM_CANDIDATES, [1], TensorProto.INT64),
        describe(graphs.TEMPERATURES, ["D"]),
    ]
    outputs = [
        describe(graphs.LOGITS, ["N", sizes.vocabulary_size]),
        describe(graphs.CANDIDATE_LOGITS, ["N", "K"]),
        describe(graphs.CANDIDATE_IDS, ["N", "K"], TensorProto.INT64),
        describe(graphs.LOG_NORMALIZER, ["N"]),
        describe(graphs.TARGET_LOGITS, ["M"]),
        describe(graphs.TARGET_RANKS, ["M"], TensorProto.INT64),
        describe(graphs.PROBABILITIES, ["D", sizes.vocabulary_size]),
    ]
    return model("head", nodes, inputs, outputs, constants)


def describe(name: str, shape: list[str | int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    constants: dict[str, Array],
) -> onnx.ModelProto:
    kept = [numpy_helper.from_array(array.astype(np.float32), key) for key, array in constants.items()]
    kept += [numpy_helper.from_array(np.array([axis]), key) for axis, key in enumerate(("first", "second"))]
    graph = helper.make_graph(nodes, name, list(inputs), list(outputs), kept)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made
