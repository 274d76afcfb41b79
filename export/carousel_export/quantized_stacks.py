"""Exports stacks with eight-bit products: embedding, layers as loops in the graph, output.

States, gates and logits stay float32, so the bundle's contract is that of the float32 graphs. Rows past their length
keep their state exactly. Legend: B lanes, T steps, E embedding width, H hidden width, G gates x H, N rows of hidden
vectors, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carousel.bundle import graphs as names
from carousel_export.graph_builder import FloatArray, GraphBuilder, to_array
from carousel_export.looped_stacks import LayeredCell, LoopedLayer
from carousel_export.native_stacks import Operator, OperatorLayer
from carousel_export.quantization import Operand, build_bounded, build_product, build_sized, quantize_rows
from carousel_training.cells.stack import RecurrentStack
from carousel_training.model import RecurrentLM


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """The weights of a layer before rounding, gates in ONNX's order: [G,X], [G,H], [G] each.

    `input_bias` is the bias that a reset gate must not touch. All other biases go with the recurrent product, where
    they cost nothing.
    """

    weights: FloatArray
    recurrent: FloatArray
    recurrent_bias: FloatArray
    input_bias: FloatArray | None


Step = Callable[[GraphBuilder, Sequence[str], Sequence[str], QuantizedLayer], list[str]]


@dataclass(frozen=True, slots=True)
class QuantizedCell:
    """A cell with eight-bit products: the operator whose weights it rounds, their biases, and one step."""

    operator: Operator
    read: Callable[[OperatorLayer], QuantizedLayer]
    step: Step

    def build(self, graph: GraphBuilder, model: RecurrentLM) -> str:
        """Builds embedding and layers, and returns the top layer's output, [T,B,H]."""

        def read(stack: RecurrentStack) -> list[QuantizedLayer]:
            return [self.read(self.operator.read(stack, index)) for index in range(stack.shape.num_layers)]

        layer = LoopedLayer(self.step, _build_input, self.operator.parts)
        embedded = _build_embedding(graph, to_array(model.input_table))
        return LayeredCell(read, layer.build).build_on(graph, model.stack, embedded)


def build_quantized_logits(graph: GraphBuilder, model: RecurrentLM) -> None:
    """Builds logits_NV of hidden_NH. A projection's results have no bound, so each of their rows has its own size."""
    operand = build_bounded(graph, names.HIDDEN)
    if model.projection is not None:
        weight, bias = to_array(model.projection.weight), to_array(model.projection.bias)
        operand = build_sized(graph, build_product(graph, "projection", operand, weight, bias))
    weight, bias = to_array(model.output_weight), to_array(model.output_bias)
    build_product(graph, "output", operand, weight, bias, result=names.LOGITS)


def _build_embedding(graph: GraphBuilder, table_VE: FloatArray) -> Operand:
    values_VE, sizes_V1 = quantize_rows(table_VE)
    ids_TB = graph.put("Transpose", names.IDS, perm=[1, 0])
    values_TBE = graph.put("Gather", graph.keep("embedding", values_VE), ids_TB, axis=0)
    return Operand(values_TBE, graph.put("Gather", graph.keep("embedding.sizes", sizes_V1), ids_TB, axis=0))


def _build_input(graph: GraphBuilder, name: str, layer: QuantizedLayer, below: Sequence[str]) -> list[str]:
    """The bottom layer is given an embedded Operand, the others the output of the layer below."""
    operand = below if isinstance(below, Operand) else build_bounded(graph, *below)
    return [build_product(graph, f"{name}.input", operand, layer.weights, layer.input_bias)]


def step_lstm(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: QuantizedLayer) -> list[str]:
    """c = f * c + i * g; h = o * tanh(c)."""
    h, c = before
    product_BG = build_product(step, "recurrent", build_bounded(step, h), layer.recurrent, layer.recurrent_bias)
    i, o, f, g = step.split(step.put("Add", given[0], product_BG), 4)
    kept = step.put("Mul", step.put("Sigmoid", f), c)
    c = step.put("Add", kept, step.put("Mul", step.put("Sigmoid", i), step.put("Tanh", g)))
    return [step.put("Mul", step.put("Sigmoid", o), step.put("Tanh", c)), c]


def step_gru(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: QuantizedLayer) -> list[str]:
    """The reset gate acts on the recurrent product; z is the share that is kept."""
    (h,) = before
    product_BG = build_product(step, "recurrent", build_bounded(step, h), layer.recurrent, layer.recurrent_bias)
    (pre_z, pre_r, pre_n), (at_z, at_r, at_n) = step.split(given[0], 3), step.split(product_BG, 3)
    z, r = (step.put("Sigmoid", step.put("Add", *pair)) for pair in ((pre_z, at_z), (pre_r, at_r)))
    n = step.put("Tanh", step.put("Add", pre_n, step.put("Mul", r, at_n)))
    return [_mix(step, z, h, n)]


def step_gru_2014(step: GraphBuilder, before: Sequence[str], given: Sequence[str], layer: QuantizedLayer) -> list[str]:
    """The reset gate acts on the state, which is rounded a second time for a product of its own."""
    (h,) = before
    size = layer.recurrent.shape[1]
    rows, bias = np.split(layer.recurrent, [2 * size]), np.split(layer.recurrent_bias, [2 * size])
    at_z, at_r = step.split(build_product(step, "gates", build_bounded(step, h), rows[0], bias[0]), 2)
    pre_z, pre_r, pre_n = step.split(given[0], 3)
    z, r = (step.put("Sigmoid", step.put("Add", *pair)) for pair in ((pre_z, at_z), (pre_r, at_r)))
    seen = build_bounded(step, step.put("Mul", r, h))
    n = step.put("Tanh", step.put("Add", pre_n, build_product(step, "new", seen, rows[1], bias[1])))
    return [_mix(step, z, h, n)]


def _mix(step: GraphBuilder, kept: str, h: str, new: str) -> str:
    """kept * h + (1 - kept) * new."""
    return step.put("Add", new, step.put("Mul", kept, step.put("Sub", h, new)))


def join_bias(given: OperatorLayer) -> QuantizedLayer:
    """Adds both biases to the recurrent product."""
    at_input, at_recurrent = np.split(given.bias[0], 2)
    return QuantizedLayer(given.weights[0], given.recurrent[0], at_input + at_recurrent, None)


def separate_bias(given: OperatorLayer) -> QuantizedLayer:
    """Leaves each bias with its product."""
    at_input, at_recurrent = np.split(given.bias[0], 2)
    return QuantizedLayer(given.weights[0], given.recurrent[0], at_recurrent, at_input)
