"""Exports stacks of cells that no ONNX operator expresses: layer by layer, with a loop over time in each layer.

Products with the input run for all steps at once; the loop has only what depends on the step before. Rows past their
length keep their state exactly. Legend: B lanes, T steps, X input width, H hidden width, G gates x H.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from onnx import TensorProto

from carousel.bundle import graphs as names
from carousel_export.graph_builder import GraphBuilder, Loop, to_array
from carousel_export.native_stacks import next_name
from carousel_training.cells.layered_stack import LayeredStack, StackLayer
from carousel_training.cells.library_stack import LibraryStack
from carousel_training.cells.stack import RecurrentStack

Layer = TypeVar("Layer")
OwnLayer = TypeVar("OwnLayer", bound=StackLayer)
# Builds what a layer's loop is given at all steps, from the outputs of the layer below.
BuildInputs = Callable[[GraphBuilder, str, Layer, Sequence[str]], Sequence[str]]
# Builds one step: the states before, what the loop is given, the layer -> the states after.
BuildStep = Callable[[GraphBuilder, Sequence[str], Sequence[str], Layer], Sequence[str]]
# Builds the mask that all layers share.
BuildMask = Callable[[GraphBuilder, RecurrentStack, str], str]
# Builds one layer by its number, with the mask and the outputs of the layer below -> the outputs of this layer.
BuildLayer = Callable[[GraphBuilder, int, Layer, str, Sequence[str]], Sequence[str]]


class InputWeights(Protocol):
    """The part of a layer that a product with its input needs."""

    @property
    def weight_ih(self) -> torch.Tensor: ...

    @property
    def bias(self) -> torch.Tensor: ...


class LibraryLayer(NamedTuple):
    """One layer of a stack on torch's modules, with torch's two biases added up."""

    weight_ih: torch.Tensor
    bias: torch.Tensor
    weight_hh: torch.Tensor


def read_library_layers(stack: RecurrentStack) -> list[LibraryLayer]:
    assert isinstance(stack, LibraryStack)
    layers = map(stack.weights, range(stack.shape.num_layers))
    return [LibraryLayer(each.weight_ih, each.bias_ih + each.bias_hh, each.weight_hh) for each in layers]


def read_layers(kind: type[OwnLayer]) -> Callable[[RecurrentStack], list[OwnLayer]]:
    """Reads our own layers, which must all be of this kind."""

    def read(stack: RecurrentStack) -> list[OwnLayer]:
        assert isinstance(stack, LayeredStack)
        layers = [layer for layer in stack.each() if isinstance(layer, kind)]
        assert len(layers) == stack.shape.num_layers
        return layers

    return read


def build_from_input(
    graph: GraphBuilder, name: str, weight_GX: torch.Tensor, bias_G: torch.Tensor | None, below_TBX: str
) -> str:
    """Builds W x + b for all steps."""
    product = graph.put("MatMul", below_TBX, graph.keep(f"{name}.W", to_array(weight_GX).T))
    return product if bias_G is None else graph.put("Add", product, graph.keep(f"{name}.b", to_array(bias_G)))


def build_gate_inputs(graph: GraphBuilder, name: str, layer: InputWeights, below: Sequence[str]) -> list[str]:
    """Builds W x + b of all gates, the only input of most loops."""
    return [build_from_input(graph, name, layer.weight_ih, layer.bias, below[0])]


def build_steps(graph: GraphBuilder, below_TBX: str) -> str:
    """Builds 0, 1, ... T-1 as int64 [T,1]."""
    num_steps = graph.put("Squeeze", graph.put("Shape", below_TBX, start=0, end=1), graph.axes(0))
    zero, one = graph.keep("zero", np.array(0, np.int64)), graph.keep("step_one", np.array(1, np.int64))
    return graph.put("Unsqueeze", graph.put("Range", zero, num_steps, one), graph.axes(1))


def build_mask(graph: GraphBuilder, stack: RecurrentStack, below_TBX: str) -> str:
    """Builds mask_TB1, true at the steps within a row's length."""
    lengths_B = graph.put("Cast", names.LENGTHS, to=TensorProto.INT64)
    return graph.put("Unsqueeze", graph.put("Less", build_steps(graph, below_TBX), lengths_B), graph.axes(2))


@dataclass(frozen=True, slots=True)
class LayeredCell(Generic[Layer]):
    """A cell whose layers are built one upon the other, all with the same mask of valid steps."""

    read: Callable[[RecurrentStack], Sequence[Layer]]
    build_layer: BuildLayer[Layer]
    build_mask: BuildMask = build_mask

    def build(self, graph: GraphBuilder, stack: RecurrentStack, below_TBX: str) -> str:
        """Builds the whole stack and returns the output of its top layer, [T,B,H]."""
        return self.build_on(graph, stack, [below_TBX])

    def build_on(self, graph: GraphBuilder, stack: RecurrentStack, below: Sequence[str]) -> str:
        """Builds the stack on an input of several tensors, the first of which is [T,B,X]."""
        mask = self.build_mask(graph, stack, below[0])
        for index, layer in enumerate(self.read(stack)):
            below = self.build_layer(graph, index, layer, mask, below)
        return below[0]


@dataclass(frozen=True, slots=True)
class LoopedLayer(Generic[Layer]):
    """A layer that is one loop over the states that `parts` names. The first `num_outputs` of them are its outputs."""

    step: BuildStep[Layer]
    build_inputs: BuildInputs[Layer]
    parts: tuple[str, ...] = ("h",)
    num_outputs: int = 1

    def build(self, graph: GraphBuilder, index: int, layer: Layer, mask: str, below: Sequence[str]) -> list[str]:
        name, states = f"layer_{index}", [f"{part}_{index}" for part in self.parts]
        inputs = self.build_inputs(graph, name, layer, below)

        def body(step: GraphBuilder, before: Sequence[str], given: Sequence[str]) -> Sequence[str]:
            return self.step(step, before, given, layer)

        finals = [next_name(state) for state in states]
        return Loop(name, states, inputs, mask, body).build(graph, finals, num_sequences=self.num_outputs)
