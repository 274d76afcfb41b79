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
from carousel_export.precision import Precision
from carousel_export.quantized_model import add_quantized_logits, draw_quantized_stack, refuse_other_cells
from carousel_export.window_stack import draw_embedded, draw_tdnn, draw_window_ids
from carousel_training.cells.tdnn import TimeDelayStack
from carousel_training.model import RecurrentLM


def build_core(model: RecurrentLM, precision: Precision = Precision.FLOAT32) -> onnx.ModelProto:
    """ids_BT, lengths_B and the state -> hidden_BTH and the state after each row's last real token. Raises
    PrecisionRefused for a cell that has no such graph."""
    drawing = Drawing()
    hidden_TBH = _draw_stack(drawing, model) if precision is Precision.FLOAT32 else _draw_int8_stack(drawing, model)
    drawing.add("Transpose", [hidden_TBH], [names.HIDDEN], perm=[1, 0, 2])
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


def build_head(model: RecurrentLM, precision: Precision = Precision.FLOAT32) -> onnx.ModelProto:
    """hidden_NH -> logits_NV and what is read from them: candidates, normaliser, the targets' logits and ranks,
    probabilities at a temperature."""
    drawing = Drawing()
    if precision is Precision.FLOAT32:
        _add_logits(drawing, model)
    else:
        add_quantized_logits(drawing, model)
    found = [names.CANDIDATE_LOGITS, names.CANDIDATE_IDS]
    drawing.add("TopK", [names.LOGITS, names.NUM_CANDIDATES], found, axis=1, largest=1, sorted=1)
    _add_normalizer(drawing)
    _add_target(drawing)
    _add_probabilities(drawing)
    return drawing.finish("head", _head_inputs(model), _head_outputs(model))


def _draw_stack(drawing: Drawing, model: RecurrentLM) -> str:
    """Embedding and layers; returns the top one's output, [T,B,H]."""
    table, stack, cell = drawing.keep("embedding", to_array(model.input_table)), model.stack, model.config.cell
    if isinstance(stack, TimeDelayStack):
        return draw_tdnn(drawing, stack, draw_embedded(drawing, table, draw_window_ids(drawing, stack)))
    ids_TB = drawing.put("Transpose", names.IDS, perm=[1, 0])
    below_TBX = drawing.put("Gather", table, ids_TB, axis=0)
    if cell in OPERATORS:
        return OPERATORS[cell].draw(drawing, stack, below_TBX)
    return LOOPS[cell](drawing, stack, below_TBX)


def _draw_int8_stack(drawing: Drawing, model: RecurrentLM) -> str:
    refuse_other_cells(model.config.cell)
    return draw_quantized_stack(drawing, model)


def _add_logits(drawing: Drawing, model: RecurrentLM) -> None:
    features_ND = names.HIDDEN
    if model.projection is not None:
        weight = drawing.keep("projection.weight", to_array(model.projection.weight))
        bias = drawing.keep("projection.bias", to_array(model.projection.bias))
        features_ND = drawing.add("Gemm", [features_ND, weight, bias], ["features"], transB=1)
    weight = drawing.keep("output.weight", to_array(model.output_weight))
    bias = drawing.keep("output.bias", to_array(model.output_bias))
    drawing.add("Gemm", [features_ND, weight, bias], [names.LOGITS], transB=1)


def _add_normalizer(drawing: Drawing) -> None:
    """log(sum(exp(logits))), which is what LogSoftmax takes away from every logit: from the first as from any.

    It is one pass over a row, takes the maximum out first and adds in blocks: a running sum in float32 loses 5e-5 over
    33,278 words. And it treats each row by itself, while Log rounds a row by its place in the batch.
    """
    log_probs_NV = drawing.put("LogSoftmax", names.LOGITS, axis=-1)
    first, end = (drawing.keep(f"column_{index}", np.array([index], np.int64)) for index in (0, 1))
    columns = [drawing.put("Slice", whole, first, end, drawing.axes(1)) for whole in (names.LOGITS, log_probs_NV)]
    drawing.add("Squeeze", [drawing.put("Sub", *columns), drawing.axes(1)], [names.LOG_NORMALIZER])


def _add_target(drawing: Drawing) -> None:
    """The targets' own logits, and how many logits of the row lie strictly above them. The rows are cut to as many as
    there are targets, so that a call without any pays nothing: onnxruntime computes what is not fetched as well."""
    zero = drawing.keep("column_0", np.array([0], np.int64))
    rows_MV = drawing.put("Slice", names.LOGITS, zero, drawing.put("Shape", names.TARGETS), drawing.axes(0))
    targets_M1 = drawing.put("Unsqueeze", names.TARGETS, drawing.axes(1))
    logits_M1 = drawing.put("GatherElements", rows_MV, targets_M1, axis=1)
    drawing.add("Squeeze", [logits_M1, drawing.axes(1)], [names.TARGET_LOGITS])
    # In float32, which counts exactly to 2^24 and ten times as fast as int64.
    above_MV = drawing.put("Cast", drawing.put("Greater", rows_MV, logits_M1), to=TensorProto.FLOAT)
    num_above_M = drawing.put("ReduceSum", above_MV, drawing.axes(1), keepdims=0)
    drawing.add("Cast", [num_above_M], [names.TARGET_RANKS], to=TensorProto.INT64)


def _add_probabilities(drawing: Drawing) -> None:
    """The softmax at each row's temperature, of no rows where none is given, as for targets. Here it takes less time
    than numpy takes for exp() alone."""
    zero = drawing.keep("column_0", np.array([0], np.int64))
    rows_MV = drawing.put("Slice", names.LOGITS, zero, drawing.put("Shape", names.TEMPERATURES), drawing.axes(0))
    temperatures_M1 = drawing.put("Unsqueeze", names.TEMPERATURES, drawing.axes(1))
    drawing.add("Softmax", [drawing.put("Div", rows_MV, temperatures_M1)], [names.PROBABILITIES], axis=-1)


def _head_inputs(model: RecurrentLM) -> list[onnx.ValueInfoProto]:
    return [
        describe(names.HIDDEN, TensorProto.FLOAT, ["N", model.config.hidden_size]),
        describe(names.TARGETS, TensorProto.INT64, ["M"]),  # N, or 0 when none is asked about
        describe(names.NUM_CANDIDATES, TensorProto.INT64, [1]),
        describe(names.TEMPERATURES, TensorProto.FLOAT, ["D"]),  # N, or 0 when nothing is to be drawn
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
