"""The network with eight-bit products: embedding, layers as loops in the graph, output. States, gates and logits stay
float32, so that a bundle's contract is the same as without. Rows past their length keep their state exactly.

Legend: B lanes, T steps, E embedding width, H hidden width, G gates x H, N rows of hidden vectors, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carousel.bundle import graphs as names
from carousel_export.drawing import Drawing, FloatArray, Loop, to_array
from carousel_export.errors import PrecisionRefused
from carousel_export.looped_stacks import draw_mask
from carousel_export.native_stacks import OPERATORS, OperatorLayer, next_name
from carousel_export.quantization import Operand, draw_bounded, draw_product, draw_sized, quantize_rows
from carousel_training.model import RecurrentLM


@dataclass(frozen=True, slots=True)
class LoopLayer:
    """Weights of a layer, gates in ONNX's order: [G,X], [G,H], [G] each. `input_bias` is what a reset gate must not
    touch; all else is added with the recurrent product, where it costs nothing."""

    weights: FloatArray
    recurrent: FloatArray
    recurrent_bias: FloatArray
    input_bias: FloatArray | None


Body = Callable[[Drawing, Sequence[str], str, LoopLayer], list[str]]


def refuse_other_cells(cell: str) -> None:
    """Raises PrecisionRefused for a cell that is not exported with eight-bit products."""
    if cell not in CELLS:
        raise PrecisionRefused(f"int8 is for the cells {', '.join(CELLS)}; this model's cell is {cell}")


def draw_quantized_stack(drawing: Drawing, model: RecurrentLM) -> str:
    """Embedding and layers; returns the top one's output, [T,B,H]."""
    cell, operator = CELLS[model.config.cell], OPERATORS[model.config.cell]
    below = _draw_embedding(drawing, to_array(model.input_table))
    mask_TB1, hidden_TBH = draw_mask(drawing, below.values), ""
    for index in range(model.config.num_layers):
        layer = cell.read(operator.read(model.stack, index))

        def body(step: Drawing, before: Sequence[str], given: Sequence[str], own: LoopLayer = layer) -> list[str]:
            return cell.body(step, before, given[0], own)

        pre_TBG = draw_product(drawing, f"layer_{index}.input", below, layer.weights, layer.input_bias)
        states = [f"{part}_{index}" for part in operator.parts]
        loop = Loop(f"layer_{index}", states, [pre_TBG], mask_TB1, body)
        (hidden_TBH,) = loop.draw(drawing, [next_name(name) for name in states])
        if index + 1 < model.config.num_layers:
            below = draw_bounded(drawing, hidden_TBH)
    return hidden_TBH


def add_quantized_logits(drawing: Drawing, model: RecurrentLM) -> None:
    """logits_NV of hidden_NH. What a projection gives has no bound, so its rows take sizes of their own."""
    operand = draw_bounded(drawing, names.HIDDEN)
    if model.projection is not None:
        weight, bias = to_array(model.projection.weight), to_array(model.projection.bias)
        operand = draw_sized(drawing, draw_product(drawing, "projection", operand, weight, bias))
    weight, bias = to_array(model.output_weight), to_array(model.output_bias)
    draw_product(drawing, "output", operand, weight, bias, result=names.LOGITS)


def _draw_embedding(drawing: Drawing, table_VE: FloatArray) -> Operand:
    values_VE, sizes_V1 = quantize_rows(table_VE)
    ids_TB = drawing.put("Transpose", names.IDS, perm=[1, 0])
    values_TBE = drawing.put("Gather", drawing.keep("embedding", values_VE), ids_TB, axis=0)
    return Operand(values_TBE, drawing.put("Gather", drawing.keep("embedding.sizes", sizes_V1), ids_TB, axis=0))


def _step_lstm(step: Drawing, before: Sequence[str], pre_BG: str, layer: LoopLayer) -> list[str]:
    """c = f * c + i * g; h = o * tanh(c)."""
    h, c = before
    product_BG = draw_product(step, "recurrent", draw_bounded(step, h), layer.recurrent, layer.recurrent_bias)
    i, o, f, g = step.split(step.put("Add", pre_BG, product_BG), 4)
    kept = step.put("Mul", step.put("Sigmoid", f), c)
    c = step.put("Add", kept, step.put("Mul", step.put("Sigmoid", i), step.put("Tanh", g)))
    return [step.put("Mul", step.put("Sigmoid", o), step.put("Tanh", c)), c]


def _step_gru(step: Drawing, before: Sequence[str], pre_BG: str, layer: LoopLayer) -> list[str]:
    """The reset gate acts on the recurrent product; z is the share that is kept."""
    (h,) = before
    product_BG = draw_product(step, "recurrent", draw_bounded(step, h), layer.recurrent, layer.recurrent_bias)
    (pre_z, pre_r, pre_n), (at_z, at_r, at_n) = step.split(pre_BG, 3), step.split(product_BG, 3)
    z, r = (step.put("Sigmoid", step.put("Add", *pair)) for pair in ((pre_z, at_z), (pre_r, at_r)))
    n = step.put("Tanh", step.put("Add", pre_n, step.put("Mul", r, at_n)))
    return [_mix(step, z, h, n)]


def _step_gru_2014(step: Drawing, before: Sequence[str], pre_BG: str, layer: LoopLayer) -> list[str]:
    """The reset gate acts on the state, which is rounded a second time for a product of its own."""
    (h,) = before
    size = layer.recurrent.shape[1]
    rows, bias = np.split(layer.recurrent, [2 * size]), np.split(layer.recurrent_bias, [2 * size])
    at_z, at_r = step.split(draw_product(step, "gates", draw_bounded(step, h), rows[0], bias[0]), 2)
    pre_z, pre_r, pre_n = step.split(pre_BG, 3)
    z, r = (step.put("Sigmoid", step.put("Add", *pair)) for pair in ((pre_z, at_z), (pre_r, at_r)))
    seen = draw_bounded(step, step.put("Mul", r, h))
    n = step.put("Tanh", step.put("Add", pre_n, draw_product(step, "new", seen, rows[1], bias[1])))
    return [_mix(step, z, h, n)]


def _mix(step: Drawing, kept: str, h: str, new: str) -> str:
    """kept * h + (1 - kept) * new."""
    return step.put("Add", new, step.put("Mul", kept, step.put("Sub", h, new)))


def _joined_bias(given: OperatorLayer) -> LoopLayer:
    at_input, at_recurrent = np.split(given.bias[0], 2)
    return LoopLayer(given.weights[0], given.recurrent[0], at_input + at_recurrent, None)


def _separate_bias(given: OperatorLayer) -> LoopLayer:
    at_input, at_recurrent = np.split(given.bias[0], 2)
    return LoopLayer(given.weights[0], given.recurrent[0], at_recurrent, at_input)


@dataclass(frozen=True, slots=True)
class Cell:
    """How a cell's layer is read and what it does in a step."""

    read: Callable[[OperatorLayer], LoopLayer]
    body: Body


CELLS = {
    "lstm": Cell(_joined_bias, _step_lstm),
    "gru": Cell(_separate_bias, _step_gru),
    "gru-2014": Cell(_joined_bias, _step_gru_2014),
}
