"""Cells that an ONNX operator computes exactly: one GRU or LSTM node per layer. The RNN operator is not among them: in
onnxruntime its rows change their bits with the batch.

Legend: B lanes, T steps, X input width, H hidden width, G gates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carousel.bundle import graphs as names
from carousel.bundle.layout import StateTensor
from carousel_export.drawing import Drawing, FloatArray, to_array
from carousel_training.cells.layered_stack import LayeredStack, RecurrentLayer
from carousel_training.cells.library_stack import LibraryStack
from carousel_training.cells.lstm_peephole import PeepholeLSTMLayer
from carousel_training.cells.stack import RecurrentStack


@dataclass(frozen=True, slots=True)
class OperatorLayer:
    """What the node of one layer is given: W [1,G*H,X], R [1,G*H,H], B [1,2*G*H], perhaps P [1,3*H]."""

    weights: FloatArray
    recurrent: FloatArray
    bias: FloatArray
    peepholes: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """An ONNX operator for a cell: attributes, the names of a layer's states, and how a layer's weights are read."""

    name: str
    parts: tuple[str, ...]
    read: Callable[[RecurrentStack, int], OperatorLayer]
    attributes: dict[str, Any] = field(default_factory=dict)

    def draw(self, drawing: Drawing, stack: RecurrentStack, below_TBX: str) -> str:
        """The whole stack; returns the output of its top layer, [T,B,H]."""
        for layer in range(stack.shape.num_layers):
            below_TBX = self._draw_layer(drawing, stack, layer, below_TBX)
        return below_TBX

    def _draw_layer(self, drawing: Drawing, stack: RecurrentStack, layer: int, below_TBX: str) -> str:
        """The states are unsqueezed to [1,B,H] and back, the output squeezed from [T,1,B,H]."""
        given = self.read(stack, layer)
        arrays = {"W": given.weights, "R": given.recurrent, "B": given.bias}
        constants = [drawing.keep(f"layer_{layer}.{key}", array) for key, array in arrays.items()]
        state = [f"{part}_{layer}" for part in self.parts]
        initial = [drawing.add("Unsqueeze", [name, drawing.axes(0)], [f"{name}_in"]) for name in state]
        if given.peepholes is not None:
            initial.append(drawing.keep(f"layer_{layer}.P", given.peepholes))
        outputs = [f"directions_{layer}", *(f"{name}_out" for name in state)]
        inputs = [below_TBX, *constants, names.LENGTHS, *initial]
        drawing.add(self.name, inputs, outputs, hidden_size=stack.shape.hidden_size, **self.attributes)
        for name in state:
            drawing.add("Squeeze", [f"{name}_out", drawing.axes(0)], [next_name(name)])
        return drawing.add("Squeeze", [f"directions_{layer}", drawing.axes(1)], [f"hidden_{layer}"])


def next_name(name: str) -> str:
    """What the graph calls the next value of a state tensor."""
    return StateTensor(name, (), "float32").output_name


def read_library(order: Sequence[int]) -> Callable[[RecurrentStack, int], OperatorLayer]:
    """For stacks on torch's modules: `order` says where each of ONNX's gates stands among torch's."""

    def reorder(rows: FloatArray) -> FloatArray:
        gates = np.split(rows, len(order))
        return np.concatenate([gates[gate] for gate in order])

    def read(stack: RecurrentStack, layer: int) -> OperatorLayer:
        assert isinstance(stack, LibraryStack)
        weight_ih, weight_hh, bias_ih, bias_hh = (reorder(to_array(tensor)) for tensor in stack.weights(layer))
        return OperatorLayer(weight_ih[None], weight_hh[None], np.concatenate([bias_ih, bias_hh])[None])

    return read


def read_layer(gates: Sequence[str], signs: Sequence[float]) -> Callable[[RecurrentStack, int], OperatorLayer]:
    """For our own layers: the gates in ONNX's order, "" for rows that the operator ignores. A sign of -1 turns a gate
    into 1 minus itself, since s(-a) = 1 - s(a)."""

    def read(stack: RecurrentStack, layer: int) -> OperatorLayer:
        assert isinstance(stack, LayeredStack)
        own = stack.each()[layer]
        assert isinstance(own, RecurrentLayer)

        def reorder(rows: FloatArray) -> FloatArray:
            nothing = np.zeros_like(rows[: own.shape.hidden_size])
            pairs = zip(gates, signs, strict=True)
            return np.concatenate([sign * rows[own.rows(gate)] if gate else nothing for gate, sign in pairs])

        bias = reorder(to_array(own.bias))
        rows = reorder(to_array(own.weight_ih)), reorder(to_array(own.weight_hh))
        return OperatorLayer(
            rows[0].astype(np.float32)[None],
            rows[1].astype(np.float32)[None],
            np.concatenate([bias, np.zeros_like(bias)]).astype(np.float32)[None],
            _peepholes(own),
        )

    return read


def _peepholes(layer: RecurrentLayer) -> FloatArray | None:
    """In ONNX's order: i, o, f."""
    if not isinstance(layer, PeepholeLSTMLayer):
        return None
    at_i, at_f = np.split(to_array(layer.peephole_if), 2)
    return np.concatenate([at_i, to_array(layer.peephole_o), at_f])[None]


# ONNX orders the gates i o f c and z r h; torch orders them i f g o and r z n. What ONNX calls z is kept, and so is
# torch's; what Cho et al.'s equations here call z is new.
OPERATORS = {
    "lstm": Operator("LSTM", ("h", "c"), read_library((0, 3, 1, 2))),
    "lstm-peephole": Operator("LSTM", ("h", "c"), read_layer(("i", "o", "f", "g"), (1, 1, 1, 1))),
    "lstm-coupled": Operator("LSTM", ("h", "c"), read_layer(("i", "o", "", "g"), (1, 1, 1, 1)), {"input_forget": 1}),
    "gru": Operator("GRU", ("h",), read_library((1, 0, 2)), {"linear_before_reset": 1}),
    "gru-2014": Operator("GRU", ("h",), read_layer(("z", "r", "n"), (-1, 1, 1)), {"linear_before_reset": 0}),
}
