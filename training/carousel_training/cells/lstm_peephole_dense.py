"""This module is the LSTM whose gates read the whole memory through a matrix, not only their own unit's."""

import torch
from torch import nn

from carousel_training.cells.initial import initialise_state
from carousel_training.cells.layered_stack import LayeredStack
from carousel_training.cells.memory import Looks
from carousel_training.cells.memory_layer import MemoryLayer
from carousel_training.cells.stack import StackShape, State, Step


class DensePeepholeLSTMLayer(MemoryLayer):
    """Computes, with s the logistic function, * the element-wise product, [a, b] two joined vectors, x_t [X], h_t and
    c_t [H], W_i, W_f, W_o [H, H+H+X], W_g [H, H+X]:

    i, f = s(W [c_{t-1}, h_{t-1}, x_t] + b) each,  g = tanh(W_g [h_{t-1}, x_t] + b_g)
    c_t = f * c_{t-1} + i * g,  o = s(W_o [c_t, h_{t-1}, x_t] + b_o),  h_t = o * tanh(c_t)

    Figures often show the peepholes of Gers & Schmidhuber (2000) in this form. Each W is stored in its parts.
    """

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        size = shape.hidden_size
        self.weight_co = nn.Parameter(torch.empty(size, size))
        self.weight_cif = nn.Parameter(torch.empty(2 * size, size))
        for weight in (self.weight_co, self.weight_cif):
            initialise_state(weight)

    def looks(self) -> Looks:
        return Looks(self.weight_co, self.weight_cif)

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        h_BH, c_BH = state
        sums = self.split(self.from_input(x_BX) + h_BH @ self.weight_hh.t())
        from_i, from_f = (c_BH @ self.weight_cif.t()).chunk(2, dim=1)
        gates = {"i": torch.sigmoid(sums["i"] + from_i), "f": torch.sigmoid(sums["f"] + from_f)}
        gates["g"] = torch.tanh(sums["g"])
        c_BH = gates["f"] * c_BH + gates["i"] * gates["g"]
        gates["o"] = torch.sigmoid(sums["o"] + c_BH @ self.weight_co.t())
        h_BH = gates["o"] * torch.tanh(c_BH)
        return Step(h_BH, (h_BH, c_BH), gates)


class DensePeepholeLSTMStack(LayeredStack):
    layer_type = DensePeepholeLSTMLayer
