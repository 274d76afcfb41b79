"""This module is the LSTM with diagonal peepholes (Gers & Schmidhuber 2000, as in Graves 2013)."""

from collections.abc import Mapping

import torch
from torch import nn

from carousel_training.cells.layered_stack import LayeredStack
from carousel_training.cells.memory import Looks
from carousel_training.cells.memory_layer import MemoryLayer
from carousel_training.cells.stack import StackShape, State, Step


class PeepholeLSTMLayer(MemoryLayer):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t, c_t and w [H], each W [H,X],
    each U [H,H]:

    i = s(W_i x_t + U_i h_{t-1} + w_ci * c_{t-1} + b_i),  f = s(W_f x_t + U_f h_{t-1} + w_cf * c_{t-1} + b_f)
    g = tanh(W_g x_t + U_g h_{t-1} + b_g),  c_t = f * c_{t-1} + i * g
    o = s(W_o x_t + U_o h_{t-1} + w_co * c_t + b_o),  h_t = o * tanh(c_t)

    The peepholes w start at zero, which gives the plain LSTM.
    """

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        self.peephole_o = nn.Parameter(torch.zeros(shape.hidden_size))
        self.peephole_if = nn.Parameter(torch.zeros(2 * shape.hidden_size))

    def looks(self) -> Looks:
        return Looks(self.peephole_o, self.peephole_if)

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        h_BH, c_BH = state
        sums, gates = self.sums(x_BX, h_BH), dict[str, torch.Tensor]()
        c_BH = self.remember(sums, c_BH, gates)
        h_BH = self.show(sums, c_BH, gates)
        return Step(h_BH, (h_BH, c_BH), gates)

    def sums(self, x_BX: torch.Tensor, h_BH: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Returns each gate's sum of input and state before."""
        return self.split(self.from_input(x_BX) + h_BH @ self.weight_hh.t())

    def remember(
        self, sums: Mapping[str, torch.Tensor], c_BH: torch.Tensor, gates: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Returns f * c + i * g, and adds the three gates to `gates`."""
        at_i, at_f = self.peephole_if.chunk(2)
        gates["i"], gates["f"] = torch.sigmoid(sums["i"] + at_i * c_BH), torch.sigmoid(sums["f"] + at_f * c_BH)
        gates["g"] = torch.tanh(sums["g"])
        return gates["f"] * c_BH + gates["i"] * gates["g"]

    def show(
        self, sums: Mapping[str, torch.Tensor], c_BH: torch.Tensor, gates: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Returns o * tanh(c), where o sees the new memory, and adds o to `gates`."""
        gates["o"] = torch.sigmoid(sums["o"] + self.peephole_o * c_BH)
        return gates["o"] * torch.tanh(c_BH)


class PeepholeLSTMStack(LayeredStack):
    layer_type = PeepholeLSTMLayer
