"""This module is the LSTM with a forget gate (Gers, Schmidhuber & Cummins 2000), the default cell."""

import torch
from torch import nn
from torch.nn import functional

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.library_stack import LayerWeights, LibraryStack, library_sizes
from carousel_training.cells.stack import StackShape, State, Step


class LSTMStack(LibraryStack):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t and c_t [H], each W [H,X],
    each U [H,H]:

    i, f, o = s(W x_t + U h_{t-1} + b) each,  g = tanh(W_g x_t + U_g h_{t-1} + b_g)
    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)

    The forget gate starts open, as in every cell (`initial.py`).
    """

    parts = ("h", "c")

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape, nn.LSTM(**library_sizes(shape)))
        forget = slice(shape.hidden_size, 2 * shape.hidden_size)  # torch orders the gates i, f, g, o
        with torch.no_grad():
            for layer in range(shape.num_layers):
                self.weights(layer).bias_ih[forget].fill_(KEEPING_BIAS)

    def run_layer(self, x_TBX: torch.Tensor, state: State, weights: LayerWeights) -> tuple[torch.Tensor, State]:
        y_TBH, h_1BH, c_1BH = torch.lstm(x_TBX, state, list(weights), True, 1, 0.0, self.training, False, False)
        return y_TBH, (h_1BH, c_1BH)

    def step_layer(self, x_BX: torch.Tensor, state: State, weights: LayerWeights) -> Step:
        h_BH, c_BH = state
        a_BG = functional.linear(x_BX, weights.weight_ih, weights.bias_ih)
        i, f, g, o = (a_BG + functional.linear(h_BH, weights.weight_hh, weights.bias_hh)).chunk(4, dim=1)
        gates = {"i": torch.sigmoid(i), "f": torch.sigmoid(f), "g": torch.tanh(g), "o": torch.sigmoid(o)}
        c_BH = gates["f"] * c_BH + gates["i"] * gates["g"]
        h_BH = gates["o"] * torch.tanh(c_BH)
        return Step(h_BH, (h_BH, c_BH), gates)
