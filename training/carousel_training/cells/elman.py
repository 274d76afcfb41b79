"""This module is the simple recurrent network (Elman 1990)."""

import torch
from torch import nn
from torch.nn import functional

from carousel_training.cells.initial import initialise_orthogonal
from carousel_training.cells.library_stack import LayerWeights, LibraryStack, library_sizes
from carousel_training.cells.stack import StackShape, State, Step


class ElmanStack(LibraryStack):
    """Computes, with x_t [X], h_t [H], W [H,X], U [H,H]:

    h_t = tanh(W x_t + U h_{t-1} + b)

    The state is h. U starts orthogonal (`initial.py`).
    """

    parts = ("h",)

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape, nn.RNN(**library_sizes(shape)))
        for layer in range(shape.num_layers):
            initialise_orthogonal(self.weights(layer).weight_hh)

    def run_layer(self, x_TBX: torch.Tensor, state: State, weights: LayerWeights) -> tuple[torch.Tensor, State]:
        y_TBH, h_1BH = torch.rnn_tanh(x_TBX, state[0], list(weights), True, 1, 0.0, self.training, False, False)
        return y_TBH, (h_1BH,)

    def step_layer(self, x_BX: torch.Tensor, state: State, weights: LayerWeights) -> Step:
        from_input_BH = functional.linear(x_BX, weights.weight_ih, weights.bias_ih)
        h_BH = torch.tanh(from_input_BH + functional.linear(state[0], weights.weight_hh, weights.bias_hh))
        return Step(h_BH, (h_BH,), {"h": h_BH})
