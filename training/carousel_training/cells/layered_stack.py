"""This module stacks layers written in this package, with dropout between them. Only the layers know equations.

Legend: T steps, B lanes, X input width, H hidden width, G gate rows of a layer, k x H.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateLayout, StateTensor
from carousel_training.cells.dropout import drop_units, drop_weights
from carousel_training.cells.initial import initialise_input, initialise_state
from carousel_training.cells.stack import RecurrentStack, StackShape, State, Step


class LayerRun(NamedTuple):
    """A layer's results over T steps: its output, its last state, and its memory at every step if it has one."""

    y_TBH: torch.Tensor
    state: State
    c_TBH: torch.Tensor | None = None


class StackLayer(nn.Module):
    """One layer with any weights: `sequence` is the fast pass, `step` the written equations.

    `below` is the memory of the layer underneath, for the cell that reads it.
    """

    parts: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__()
        self.shape = shape
        self.input_size = shape.input_size if layer == 0 else shape.hidden_size

    @property
    def layout(self) -> tuple[StateTensor, ...]:
        """Returns the tensors of this layer's state, named without the layer's number."""
        return tuple(StateTensor(part, (self.shape.hidden_size,), "float32") for part in self.parts)

    def sequence(self, x_TBX: torch.Tensor, state: State, below_TBH: torch.Tensor | None) -> LayerRun:
        raise NotImplementedError

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        raise NotImplementedError


class RecurrentLayer(StackLayer):
    """`weight_ih` [G,X] and `bias` [G] act on the input, `weight_hh` [k x H,H] on the state before, if any gate sees
    it.

    Gates have the order of `gates`; the first `num_recurrent` of them see the state.
    """

    gates: ClassVar[tuple[str, ...]]
    num_recurrent: ClassVar[int]

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        self.weight_ih = nn.Parameter(torch.empty(len(self.gates) * shape.hidden_size, self.input_size))
        self.bias = nn.Parameter(torch.zeros(len(self.gates) * shape.hidden_size))
        initialise_input(self.weight_ih)
        if self.num_recurrent:  # an empty parameter would never get a gradient, and processes would wait for it
            self.weight_hh = nn.Parameter(torch.empty(self.num_recurrent * shape.hidden_size, shape.hidden_size))
            initialise_state(self.weight_hh)

    def rows(self, gate: str) -> slice:
        """Returns the place of a gate's rows in the matrices."""
        index, size = self.gates.index(gate), self.shape.hidden_size
        return slice(index * size, (index + 1) * size)

    def from_input(self, x_TBX: torch.Tensor) -> torch.Tensor:
        """Returns W x + b of all gates, for all steps at once."""
        return functional.linear(x_TBX, self.weight_ih, self.bias)

    def recurrent(self) -> torch.Tensor:
        """Returns `weight_hh` without the weights that are dropped in this call."""
        return drop_weights(self.weight_hh, self.shape.weight_drop, is_training=self.training)

    def split(self, a_BG: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Returns the gates' columns by name."""
        return dict(zip(self.gates, a_BG.chunk(len(self.gates), dim=-1), strict=True))


class LayeredStack(RecurrentStack):
    """L layers of `layer_type`. The names of each layer's state end with its number."""

    layer_type: ClassVar[type[StackLayer]]

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape)
        self.layers = nn.ModuleList(self.layer_type(shape, layer) for layer in range(shape.num_layers))

    def each(self) -> list[StackLayer]:
        return [cast(StackLayer, layer) for layer in self.layers]

    @property
    def state_layout(self) -> StateLayout:
        numbered = [(number, tensor) for number, layer in enumerate(self.each()) for tensor in layer.layout]
        return StateLayout(tuple(replace(tensor, name=f"{tensor.name}_{number}") for number, tensor in numbered))

    def forward(self, x_SBX: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        shape, below_TBH, after = self.shape, None, list[torch.Tensor]()
        for index, layer in enumerate(self.each()):
            if index > 0:
                x_SBX = drop_units(x_SBX, shape.dropout, is_locked=shape.is_locked, is_training=self.training)
            x_SBX, state_next, below_TBH = layer.sequence(x_SBX, self._of_layer(state, index), below_TBH)
            after += state_next
        return x_SBX, tuple(after)

    def step(self, x_SBX: torch.Tensor, state: State) -> Step:
        y_BX, below_BH, after = x_SBX[0], None, list[torch.Tensor]()
        gates: dict[str, torch.Tensor] = {}
        for index, layer in enumerate(self.each()):
            step = layer.step(y_BX, self._of_layer(state, index), below_BH)
            y_BX, below_BH = step.output_BH, step.state[-1]
            after += step.state
            gates |= {f"{name}_{index}": values for name, values in step.gates.items()}
        return Step(y_BX, tuple(after), gates)

    def _of_layer(self, state: State, layer: int) -> State:
        num_parts = len(self.layer_type.parts)
        return state[layer * num_parts : (layer + 1) * num_parts]
