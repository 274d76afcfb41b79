"""Stacks on torch's own recurrent kernels (oneDNN, cuDNN). It knows no equations; the cells that use it do.

Legend: T steps, B lanes, X input width, H hidden width, L layers.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from carousel.bundle.layout import StateLayout
from carousel_training.cells.dropout import drop_units, drop_weights
from carousel_training.cells.initial import initialise_input, initialise_state
from carousel_training.cells.stack import RecurrentStack, StackShape, State, Step, vectors


class LayerWeights(NamedTuple):
    """Holds one layer's matrices and biases, with the gates in torch's order."""

    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    bias_ih: torch.Tensor
    bias_hh: torch.Tensor


class LibraryStack(RecurrentStack):
    """`layers` is torch's module; `parts` names one layer's state. A cell implements `run_layer` and `step_layer`.

    Torch adds two bias vectors where the equations have one. The second stays zero: an optimiser that moves both moves
    their sum twice as fast as the biases of other cells.
    """

    parts: ClassVar[tuple[str, ...]]
    layers: nn.RNNBase

    def __init__(self, shape: StackShape, layers: nn.RNNBase) -> None:
        super().__init__(shape)
        self.layers = layers
        self._runs_whole = not shape.is_locked and shape.weight_drop == 0.0
        for layer in range(shape.num_layers):
            weights = self.weights(layer)
            initialise_input(weights.weight_ih)
            initialise_state(weights.weight_hh)
            for bias in (weights.bias_ih, weights.bias_hh):
                nn.init.zeros_(bias)
            weights.bias_hh.requires_grad_(False)

    @property
    def state_layout(self) -> StateLayout:
        return vectors(self.parts, self.shape)

    def weights(self, layer: int) -> LayerWeights:
        return LayerWeights(*(getattr(self.layers, f"{name}_l{layer}") for name in LayerWeights._fields))

    def run_layer(self, x_TBX: torch.Tensor, state: State, weights: LayerWeights) -> tuple[torch.Tensor, State]:
        """Returns y_TBH and the state after; states are [1,B,H] here."""
        raise NotImplementedError

    def step_layer(self, x_BX: torch.Tensor, state: State, weights: LayerWeights) -> Step:
        raise NotImplementedError

    def forward(self, x_SBX: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        if not self._runs_whole:
            return self._run_layers(x_SBX, state)
        num_parts = len(self.parts)
        stacked = [torch.stack(state[part::num_parts]).to(x_SBX.dtype) for part in range(num_parts)]
        y_TBH, after = self.layers(x_SBX, stacked[0] if num_parts == 1 else tuple(stacked))
        after_parts = (after,) if num_parts == 1 else after
        return y_TBH, tuple(t[layer] for layer in range(self.shape.num_layers) for t in after_parts)

    def step(self, x_SBX: torch.Tensor, state: State) -> Step:
        y_BX, after = x_SBX[0], list[torch.Tensor]()
        gates: dict[str, torch.Tensor] = {}
        for layer in range(self.shape.num_layers):
            step = self.step_layer(y_BX, self._of_layer(state, layer), self.weights(layer))
            y_BX = step.output_BH
            after += step.state
            gates |= {f"{name}_{layer}": values for name, values in step.gates.items()}
        return Step(y_BX, tuple(after), gates)

    def _run_layers(self, x_TBX: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Runs layer by layer, since torch's stack of layers has neither locked dropout nor dropped weights."""
        shape, y_TBX, after = self.shape, x_TBX, list[torch.Tensor]()
        for layer in range(shape.num_layers):
            if layer > 0:
                y_TBX = drop_units(y_TBX, shape.dropout, is_locked=shape.is_locked, is_training=self.training)
            weights = self.weights(layer)
            dropped = drop_weights(weights.weight_hh, shape.weight_drop, is_training=self.training)
            before = tuple(tensor[None].to(y_TBX.dtype) for tensor in self._of_layer(state, layer))
            y_TBX, state_1BH = self.run_layer(y_TBX, before, weights._replace(weight_hh=dropped))
            after += [tensor[0] for tensor in state_1BH]
        return y_TBX, tuple(after)

    def _of_layer(self, state: State, layer: int) -> State:
        num_parts = len(self.parts)
        return state[layer * num_parts : (layer + 1) * num_parts]


def library_sizes(shape: StackShape) -> dict[str, Any]:
    """Returns the arguments of torch's modules."""
    dropout = shape.dropout if shape.num_layers > 1 else 0.0
    sizes = {"input_size": shape.input_size, "hidden_size": shape.hidden_size, "num_layers": shape.num_layers}
    return sizes | {"dropout": dropout}
