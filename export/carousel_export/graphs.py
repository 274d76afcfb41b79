"""Writes a trained model as the two ONNX graphs of a bundle, with the names of `carousel.bundle.graphs`.

Graphs are built from the weights, operator by operator. Legend: B lanes, T steps, E embedding width, H hidden width,
N rows of hidden vectors, V vocabulary, K candidates.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from carousel.bundle import graphs as names
from carousel_export.drawing import Drawing, describe, to_array
from carousel_export.looped_stacks import LOOPS
from carousel_export.native_stacks import OPERATORS
from carousel_export.window_stack import draw_embedded, draw_tdnn, draw_window_ids
from carousel_training.cells.tdnn import TimeDelayStack
from carousel_training.model import RecurrentLM


def build_core(model: RecurrentLM) -> onnx.ModelProto:
    """ids_BT, lengths_B and the state -> hidden_BTH and the state after each row's last real token."""
    drawing = Drawing()
    drawing.add("Transpose", [_draw_stack(drawing, model)], [names.HIDDEN], perm=[1, 0, 2])
    tensors = model.state_layout.tensors
    kinds = [helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)) for tensor in tensors]
    inputs = [
        describe(names.IDS, TensorProto.INT64, ["B", "T"]),
        describe(names.LENGTHS, TensorProto.INT32, ["B"]),
        *(describe(tensor.name, kind, ["B", *tensor.shape]) for tensor, kind in zip(tensors, kinds, strict=True)),
    ]
    outputs = [
        describe(names.HIDDEN, TensorProto.FLOAT, ["B", "T", model.config.hidden_size]),
        *(describe(t.output_name, kind, ["B", *t.shape]) for t, kind in zip(tensors, kinds, strict=True)),
    ]
    return drawing.finish("core", inputs, outputs)


def build_head(model: RecurrentLM) -> onnx.ModelProto:
    """hidden_NH -> logits_NV and what is read from them: candidates, normaliser, the targets' logits and ranks."""
    drawing = Drawing()
    features_ND = names.HIDDEN
    if model.projection is not None:
        weight = drawing.keep("projection.weight", to_array(model.projection.weight))
        bias = drawing.keep("projection.bias", to_array(model.projection.bias))
        features_ND = drawing.add("Gemm", [features_ND, weight, bias], ["features"], transB=1)
    weight = drawing.keep("output.weight", to_array(model.output_weight))
    bias = drawing.keep("output.bias", to_array(model.output_bias))
    drawing.add("Gemm", [features_ND, weight, bias], [names.LOGITS], transB=1)
    found = [names.CANDIDATE_LOGITS, names.CANDIDATE_IDS]
    drawing.add("TopK", [names.LOGITS, names.NUM_CANDIDATES], found, axis=1, largest=1, sorted=1)
    _add_normalizer(drawing, model.config.vocabulary_size)
    _add_target(drawing)
    return drawing.finish("head", _head_inputs(model), _head_outputs(model))


def _draw_stack(drawing: Drawing, model: RecurrentLM) -> str:
    """Embedding and layers; returns the top one's output, [T,B,H]."""
    table, stack, cell = drawing.keep("embedding", to_array(model.embedding.weight)), model.stack, model.config.cell
    if isinstance(stack, TimeDelayStack):
        return draw_tdnn(drawing, stack, draw_embedded(drawing, table, draw_window_ids(drawing, stack)))
    ids_TB = drawing.put("Transpose", names.IDS, perm=[1, 0])
    below_TBX = drawing.put("Gather", table, ids_TB, axis=0)
    if cell in OPERATORS:
        return OPERATORS[cell].draw(drawing, stack, below_TBX)
    return LOOPS[cell](drawing, stack, below_TBX)


def _add_normalizer(drawing: Drawing, vocabulary_size: int) -> None:
    """log(sum(exp(logits))) with the maximum taken out first: whether ReduceLogSumExp does so is up to the runtime.

    The sum is a product with ones, which adds in blocks: a running sum in float32 loses 5e-5 over 33,278 words.
    """
    ones = drawing.keep("ones", np.ones((vocabulary_size, 1), np.float32))
    drawing.add("ReduceMax", [names.LOGITS, drawing.axes(1)], ["maximum"], keepdims=1)
    drawing.add("Sub", [names.LOGITS, "maximum"], ["shifted"])
    drawing.add("Exp", ["shifted"], ["exponentials"])
    drawing.add("MatMul", ["exponentials", ones], ["sum"])
    # Of a single column: Log itself rounds a row differently by its place in the batch.
    drawing.add("ReduceLogSum", ["sum", drawing.axes(1)], ["log_sum"], keepdims=1)
    drawing.add("Add", ["log_sum", "maximum"], ["log_normalizer_column"])
    drawing.add("Squeeze", ["log_normalizer_column", drawing.axes(1)], [names.LOG_NORMALIZER])


def _add_target(drawing: Drawing) -> None:
    """The targets' own logits, and how many logits of the row lie strictly above them."""
    drawing.add("Unsqueeze", [names.TARGETS, drawing.axes(1)], ["targets_column"])
    drawing.add("GatherElements", [names.LOGITS, "targets_column"], ["target_logits_column"], axis=1)
    drawing.add("Squeeze", ["target_logits_column", drawing.axes(1)], [names.TARGET_LOGITS])
    drawing.add("Greater", [names.LOGITS, "target_logits_column"], ["is_above"])
    drawing.add("Cast", ["is_above"], ["above"], to=TensorProto.INT64)
    drawing.add("ReduceSum", ["above", drawing.axes(1)], [names.TARGET_RANKS], keepdims=0)


def _head_inputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        describe(names.HIDDEN, TensorProto.FLOAT, ["N", model.config.hidden_size]),
        describe(names.TARGETS, TensorProto.INT64, ["N"]),
        describe(names.NUM_CANDIDATES, TensorProto.INT64, [1]),
    ]


def _head_outputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        describe(names.LOGITS, TensorProto.FLOAT, ["N", model.config.vocabulary_size]),
        describe(names.CANDIDATE_LOGITS, TensorProto.FLOAT, ["N", "K"]),
        describe(names.CANDIDATE_IDS, TensorProto.INT64, ["N", "K"]),
        describe(names.LOG_NORMALIZER, TensorProto.FLOAT, ["N"]),
        describe(names.TARGET_LOGITS, TensorProto.FLOAT, ["N"]),
        describe(names.TARGET_RANKS, TensorProto.INT64, ["N"]),
    ]
