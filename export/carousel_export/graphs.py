"""Writes a trained model as the two ONNX graphs of a bundle, with the names of `carousel.bundle.graphs`.

Graphs are built from the weights, operator by operator: one ONNX LSTM or GRU per layer. Legend: B lanes, T steps,
E embedding width, H hidden width, N rows of hidden vectors, V vocabulary, K candidates, G gates (4 or 3).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from carousel.bundle import graphs as names
from carousel.bundle.layout import StateTensor
from carousel_training.model import RecurrentLM

OPSET = 21
IR_VERSION = 10
PRODUCER = "carousel-export"
# Where each of ONNX's gates stands among torch's: ONNX orders i o f c and z r h, torch orders i f g o and r z n.
GATE_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
OPERATOR = {"lstm": "LSTM", "gru": "GRU"}

FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class Drawing:
    """A graph in the making."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: int) -> str:
        """Returns the first output, so that nodes chain."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, None, None, None, None, **attributes))
        return outputs[0]

    def keep(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """A constant; returns its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def finish(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        onnx.checker.check_model(model, full_check=True)
        return model


def build_core(model: RecurrentLM) -> onnx.ModelProto:
    """ids_BT, lengths_B and the state -> hidden_BTH and the state after each row's last real token."""
    drawing = Drawing()
    layout = model.state_layout
    table = drawing.keep("embedding", _array(model.embedding.weight))
    drawing.keep("axis_0", np.array([0], np.int64))
    drawing.keep("axis_1", np.array([1], np.int64))
    drawing.nodes.append(helper.make_node("Transpose", [names.IDS], ["ids_time_major"], perm=[1, 0]))
    below_TBX = drawing.add("Gather", [table, "ids_time_major"], ["embedded"], axis=0)
    for layer in range(model.config.num_layers):
        below_TBX = _add_layer(drawing, model, layer, below_TBX)
    drawing.nodes.append(helper.make_node("Transpose", [below_TBX], [names.HIDDEN], perm=[1, 0, 2]))
    inputs = [
        _describe(names.IDS, TensorProto.INT64, ["B", "T"]),
        _describe(names.LENGTHS, TensorProto.INT32, ["B"]),
        *(_describe(tensor.name, TensorProto.FLOAT, ["B", *tensor.shape]) for tensor in layout.tensors),
    ]
    outputs = [
        _describe(names.HIDDEN, TensorProto.FLOAT, ["B", "T", model.config.hidden_size]),
        *(_describe(tensor.output_name, TensorProto.FLOAT, ["B", *tensor.shape]) for tensor in layout.tensors),
    ]
    return drawing.finish("core", inputs, outputs)


def build_head(model: RecurrentLM) -> onnx.ModelProto:
    """hidden_NH -> logits_NV and what is read from them: candidates, normaliser, the targets' logits and ranks."""
    drawing = Drawing()
    drawing.keep("axis_1", np.array([1], np.int64))
    features_ND = names.HIDDEN
    if model.projection is not None:
        weight = drawing.keep("projection.weight", _array(model.projection.weight))
        bias = drawing.keep("projection.bias", _array(model.projection.bias))
        features_ND = drawing.add("Gemm", [features_ND, weight, bias], ["features"], transB=1)
    weight = drawing.keep("output.weight", _array(model.output_weight))
    bias = drawing.keep("output.bias", _array(model.output_bias))
    drawing.add("Gemm", [features_ND, weight, bias], [names.LOGITS], transB=1)
    found = [names.CANDIDATE_LOGITS, names.CANDIDATE_IDS]
    drawing.add("TopK", [names.LOGITS, names.NUM_CANDIDATES], found, axis=1, largest=1, sorted=1)
    _add_normalizer(drawing)
    _add_target(drawing)
    return drawing.finish("head", _head_inputs(model), _head_outputs(model))


def _add_layer(drawing: Drawing, model: RecurrentLM, layer: int, below_TBX: str) -> str:
    """One recurrent operator with its states unsqueezed to [1,B,H] and back; returns its output, [T,B,H]."""
    cell, parts = model.config.cell, model.stack.parts
    weights = _layer_weights(model, layer)
    constants = [drawing.keep(f"layer_{layer}.{key}", array) for key, array in zip("WRB", weights, strict=True)]
    initial = [drawing.add("Unsqueeze", [f"{part}_{layer}", "axis_0"], [f"{part}_{layer}_in"]) for part in parts]
    after = [f"{part}_{layer}_out" for part in parts]
    outputs = [f"directions_{layer}", *after]
    attributes = {"hidden_size": model.config.hidden_size}
    if cell == "gru":
        attributes["linear_before_reset"] = 1
    drawing.add(OPERATOR[cell], [below_TBX, *constants, names.LENGTHS, *initial], outputs, **attributes)
    for part, output in zip(parts, after, strict=True):
        drawing.add("Squeeze", [output, "axis_0"], [StateTensor(f"{part}_{layer}", (), "float32").output_name])
    return drawing.add("Squeeze", [f"directions_{layer}", "axis_1"], [f"hidden_{layer}"])


def _layer_weights(model: RecurrentLM, layer: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """W [1, G*H, X], R [1, G*H, H] and B [1, 2*G*H] of one layer in ONNX's order of gates."""
    order = GATE_ORDER[model.config.cell]
    weights = dict(model.stack.named_parameters())

    def reorder(name: str) -> FloatArray:
        gates = np.split(_array(weights[f"layers.{name}_l{layer}"]), len(order))
        return np.concatenate([gates[gate] for gate in order])

    bias = np.concatenate([reorder("bias_ih"), reorder("bias_hh")])
    return reorder("weight_ih")[None], reorder("weight_hh")[None], bias[None]


def _add_normalizer(drawing: Drawing) -> None:
    """log(sum(exp(logits))) with the maximum taken out first: whether ReduceLogSumExp does so is up to the runtime."""
    drawing.add("ReduceMax", [names.LOGITS, "axis_1"], ["maximum"], keepdims=1)
    drawing.add("Sub", [names.LOGITS, "maximum"], ["shifted"])
    drawing.add("Exp", ["shifted"], ["exponentials"])
    # One operator for both: Log alone rounds a row differently by its place in the batch.
    drawing.add("ReduceLogSum", ["exponentials", "axis_1"], ["log_sum"], keepdims=1)
    drawing.add("Add", ["log_sum", "maximum"], ["log_normalizer_column"])
    drawing.add("Squeeze", ["log_normalizer_column", "axis_1"], [names.LOG_NORMALIZER])


def _add_target(drawing: Drawing) -> None:
    """The targets' own logits, and how many logits of the row lie strictly above them."""
    drawing.add("Unsqueeze", [names.TARGETS, "axis_1"], ["targets_column"])
    drawing.add("GatherElements", [names.LOGITS, "targets_column"], ["target_logits_column"], axis=1)
    drawing.add("Squeeze", ["target_logits_column", "axis_1"], [names.TARGET_LOGITS])
    drawing.add("Greater", [names.LOGITS, "target_logits_column"], ["is_above"])
    drawing.add("Cast", ["is_above"], ["above"], to=TensorProto.INT64)
    drawing.add("ReduceSum", ["above", "axis_1"], [names.TARGET_RANKS], keepdims=0)


def _head_inputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        _describe(names.HIDDEN, TensorProto.FLOAT, ["N", model.config.hidden_size]),
        _describe(names.TARGETS, TensorProto.INT64, ["N"]),
        _describe(names.NUM_CANDIDATES, TensorProto.INT64, [1]),
    ]


def _head_outputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        _describe(names.LOGITS, TensorProto.FLOAT, ["N", model.config.vocabulary_size]),
        _describe(names.CANDIDATE_LOGITS, TensorProto.FLOAT, ["N", "K"]),
        _describe(names.CANDIDATE_IDS, TensorProto.INT64, ["N", "K"]),
        _describe(names.LOG_NORMALIZER, TensorProto.FLOAT, ["N"]),
        _describe(names.TARGET_LOGITS, TensorProto.FLOAT, ["N"]),
        _describe(names.TARGET_RANKS, TensorProto.INT64, ["N"]),
    ]


def _describe(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _array(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.detach().cpu().to(torch.float32).numpy())
