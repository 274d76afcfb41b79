"""Exports cells that an ONNX operator computes exactly: one GRU or LSTM node per layer.

The RNN operator is not used: in onnxruntime the bits of its rows depend on the batch. Legend: B lanes, T steps, X input
width, H hidden width, G gates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carousel.bundle import graphs as names
from carousel.bundle.layout import StateTensor
from carousel_export.graph_builder import FloatArray, GraphBuilder, to_array
from carousel_training.cells.layered_stack import LayeredStack, RecurrentLayer
from carousel_training.cells.library_stack import LibraryStack
from carousel_training.cells.lstm_peephole import PeepholeLSTMLayer
from carousel_training.cells.stack import RecurrentStack


@dataclass(frozen=True, slots=True)
class OperatorLayer:
    """The inputs of one layer's node: W [1,G*H,X], R [1,G*H,H], B [1,2*G*H], and optionally P [1,3*H]."""

    weights: FloatArray
    recurrent: FloatArray
    bias: FloatArray
    peepholes: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """An ONNX operator for a cell. `parts` names a layer's states, and `read` returns a layer's weights."""

    name: str
    parts: tuple[str, ...]
    read: Callable[[RecurrentStack, int], OperatorLayer]
    attributes: dict[str, Any] = field(default_factory=dict)

    def build(self, graph: GraphBuilder, stack: RecurrentStack, below_TBX: str) -> str:
        """Builds the whole stack and returns the output of its top layer, [T,B,H]."""
        for layer in range(stack.shape.num_layers):
            below_TBX = self._build_layer(graph, stack, layer, below_TBX)
        return below_TBX

    def _build_layer(self, graph: GraphBuilder, stack: RecurrentStack, layer: int, below_TBX: str) -> str:
        """Unsqueezes the states to [1,B,H] and back, and squeezes the output from [T,1,B,H]."""
        given = self.read(stack, layer)
        arrays = {"W": given.weights, "R": given.recurrent, "B": given.bias}
        constants = [graph.keep(f"layer_{layer}.{key}", array) for key, array in arrays.items()]
        state = [f"{part}_{layer}" for part in self.parts]
        initial = [graph.add("Unsqueeze", [name, graph.axes(0)], [f"{name}_in"]) for name in state]
        if given.peepholes is not None:
            initial.append(graph.keep(f"layer_{layer}.P", given.peepholes))
        outputs = [f"directions_{layer}", *(f"{name}_out" for name in state)]
        inputs = [below_TBX, *constants, names.LENGTHS, *initial]
        graph.add(self.name, inputs, outputs, hidden_size=stack.shape.hidden_size, **self.attributes)
        for name in state:
            graph.add("Squeeze", [f"{name}_out", graph.axes(0)], [next_name(name)])
        return graph.add("Squeeze", [f"directions_{layer}", graph.axes(1)], [f"hidden_{layer}"])


def next_name(name: str) -> str:
    """Returns the graph's name for the next value of a state tensor."""
    return StateTensor(name, (), "float32").output_name


def read_library(order: Sequence[int]) -> Callable[[RecurrentStack, int], OperatorLayer]:
    """Reads stacks on torch's modules. `order` gives the place of each of ONNX's gates among torch's."""

    def reorder(rows: FloatArray) -> FloatArray:
        gates = np.split(rows, len(order))
        return np.concatenate([gates[gate] for gate in order])

    def read(stack: RecurrentStack, layer: int) -> OperatorLayer:
        assert isinstance(stack, LibraryStack)
        weight_ih, weight_hh, bias_ih, bias_hh = (reorder(to_array(tensor)) for tensor in stack.weights(layer))
        return OperatorLayer(weight_ih[None], weight_hh[None], np.concatenate([bias_ih, bias_hh])[None])

    return read


def read_layer(gates: Sequence[str], signs: Sequence[float]) -> Callable[[RecurrentStack, int], OperatorLayer]:
    """Reads our own layers. `gates` has ONNX's order, with "" for rows that the operator ignores.

    A sign of -1 turns a gate into 1 minus itself, since s(-a) = 1 - s(a).
    """

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
    """Returns the peepholes in ONNX's order: i, o, f."""
    if not isinstance(layer, PeepholeLSTMLayer):
        return None
    at_i, at_f = np.split(to_array(layer.peephole_if), 2)
    return np.concatenate([at_i, to_array(layer.peephole_o), at_f])[None]
