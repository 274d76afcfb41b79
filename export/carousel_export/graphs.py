"""Builds the two ONNX graphs of a bundle from a trained model's weights, operator by operator.

`carousel.bundle.graphs` has the names. Legend: B lanes, T steps, E embedding width, H hidden width, N rows of hidden
vectors, V vocabulary, K candidates.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from carousel.bundle import graphs as names
from carousel_export.cell_exports import EXPORTS, find_quantized
from carousel_export.graph_builder import GraphBuilder, describe, to_array
from carousel_export.precision import Precision
from carousel_export.quantized_stacks import build_quantized_logits
from carousel_export.residual_stack import build_residual
from carousel_export.window_stack import build_embedded, build_window_ids
from carousel_training.cells.residual import ResidualStack
from carousel_training.cells.tdnn import TimeDelayStack
from carousel_training.model import RecurrentLM


def build_core(model: RecurrentLM, precision: Precision = Precision.FLOAT32) -> onnx.ModelProto:
    """Builds ids_BT, lengths_B and the state -> hidden_BTH and the state after each row's last valid token.

    Raises PrecisionRefused for a cell that has no such graph.
    """
    graph = GraphBuilder()
    if precision is Precision.FLOAT32:
        hidden_TBH = _build_stack(graph, model)
    else:
        hidden_TBH = find_quantized(model.config).build(graph, model)
    graph.add("Transpose", [hidden_TBH], [names.HIDDEN], perm=[1, 0, 2])
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
    return graph.as_model("core", inputs, outputs)


def build_head(model: RecurrentLM, precision: Precision = Precision.FLOAT32) -> onnx.ModelProto:
    """Builds hidden_NH -> logits_NV and what follows from them.

    These are candidates, normaliser, the targets' logits and ranks, and probabilities at a temperature.
    """
    graph = GraphBuilder()
    if precision is Precision.FLOAT32:
        _build_logits(graph, model)
    else:
        build_quantized_logits(graph, model)
    found = [names.CANDIDATE_LOGITS, names.CANDIDATE_IDS]
    graph.add("TopK", [names.LOGITS, names.NUM_CANDIDATES], found, axis=1, largest=1, sorted=1)
    _build_normalizer(graph)
    _build_target(graph)
    _build_probabilities(graph)
    return graph.as_model("head", _head_inputs(model), _head_outputs(model))


def _build_stack(graph: GraphBuilder, model: RecurrentLM) -> str:
    """Builds embedding and layers, and returns the top layer's output, [T,B,H]."""
    embedded, build_cell = _build_embedding(graph, model), EXPORTS[model.config.cell].build
    if isinstance(model.stack, ResidualStack):
        return build_residual(graph, model.stack, embedded, build_cell)
    return build_cell(graph, model.stack, embedded)


def _build_embedding(graph: GraphBuilder, model: RecurrentLM) -> str:
    table = graph.keep("embedding", to_array(model.input_table))
    if isinstance(model.stack, TimeDelayStack):
        return build_embedded(graph, table, build_window_ids(graph, model.stack))
    return graph.put("Gather", table, graph.put("Transpose", names.IDS, perm=[1, 0]), axis=0)


def _build_logits(graph: GraphBuilder, model: RecurrentLM) -> None:
    features_ND = names.HIDDEN
    if model.projection is not None:
        weight = graph.keep("projection.weight", to_array(model.projection.weight))
        bias = graph.keep("projection.bias", to_array(model.projection.bias))
        features_ND = graph.add("Gemm", [features_ND, weight, bias], ["features"], transB=1)
    weight = graph.keep("output.weight", to_array(model.output_weight))
    bias = graph.keep("output.bias", to_array(model.output_bias))
    graph.add("Gemm", [features_ND, weight, bias], [names.LOGITS], transB=1)


def _build_normalizer(graph: GraphBuilder) -> None:
    """Builds log(sum(exp(logits))), the first logit minus its LogSoftmax.

    LogSoftmax makes one pass over a row, subtracts the maximum first and adds in blocks: a running sum in float32 loses
    5e-5 over 33,278 words. It also computes each row by itself, while the rounding of Log depends on the row's place in
    the batch.
    """
    log_probs_NV = graph.put("LogSoftmax", names.LOGITS, axis=-1)
    first, end = (graph.keep(f"column_{index}", np.array([index], np.int64)) for index in (0, 1))
    columns = [graph.put("Slice", whole, first, end, graph.axes(1)) for whole in (names.LOGITS, log_probs_NV)]
    graph.add("Squeeze", [graph.put("Sub", *columns), graph.axes(1)], [names.LOG_NORMALIZER])


def _build_target(graph: GraphBuilder) -> None:
    """Builds the targets' logits, and the number of logits of the row strictly above them.

    The graph cuts the rows to the number of targets, so that a call without targets pays nothing: onnxruntime computes
    unfetched outputs as well.
    """
    zero = graph.keep("column_0", np.array([0], np.int64))
    rows_MV = graph.put("Slice", names.LOGITS, zero, graph.put("Shape", names.TARGETS), graph.axes(0))
    targets_M1 = graph.put("Unsqueeze", names.TARGETS, graph.axes(1))
    logits_M1 = graph.put("GatherElements", rows_MV, targets_M1, axis=1)
    graph.add("Squeeze", [logits_M1, graph.axes(1)], [names.TARGET_LOGITS])
    # In float32, which counts exactly to 2^24 and ten times as fast as int64.
    above_MV = graph.put("Cast", graph.put("Greater", rows_MV, logits_M1), to=TensorProto.FLOAT)
    num_above_M = graph.put("ReduceSum", above_MV, graph.axes(1), keepdims=0)
    graph.add("Cast", [num_above_M], [names.TARGET_RANKS], to=TensorProto.INT64)


def _build_probabilities(graph: GraphBuilder) -> None:
    """Builds the softmax at each row's temperature, of no rows if there are no temperatures.

    In the graph it takes less time than numpy's exp() alone.
    """
    zero = graph.keep("column_0", np.array([0], np.int64))
    rows_MV = graph.put("Slice", names.LOGITS, zero, graph.put("Shape", names.TEMPERATURES), graph.axes(0))
    temperatures_M1 = graph.put("Unsqueeze", names.TEMPERATURES, graph.axes(1))
    graph.add("Softmax", [graph.put("Div", rows_MV, temperatures_M1)], [names.PROBABILITIES], axis=-1)


def _head_inputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        describe(names.HIDDEN, TensorProto.FLOAT, ["N", model.config.hidden_size]),
        describe(names.TARGETS, TensorProto.INT64, ["M"]),  # N, or 0 without targets
        describe(names.NUM_CANDIDATES, TensorProto.INT64, [1]),
        describe(names.TEMPERATURES, TensorProto.FLOAT, ["D"]),  # N, or 0 without sampling
    ]


def _head_outputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        describe(names.LOGITS, TensorProto.FLOAT, ["N", model.config.vocabulary_size]),
        describe(names.CANDIDATE_LOGITS, TensorProto.FLOAT, ["N", "K"]),
        describe(names.CANDIDATE_IDS, TensorProto.INT64, ["N", "K"]),
        describe(names.LOG_NORMALIZER, TensorProto.FLOAT, ["N"]),
        describe(names.TARGET_LOGITS, TensorProto.FLOAT, ["M"]),
        describe(names.TARGET_RANKS, TensorProto.INT64, ["M"]),
        describe(names.PROBABILITIES, TensorProto.FLOAT, ["D", model.config.vocabulary_size]),
    ]
