"""This module is the GRU in the form of cuDNN and torch. Its reset gate acts after the recurrent product."""

import torch
from torch import nn
from torch.nn import functional

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.library_stack import LayerWeights, LibraryStack, library_sizes
from carousel_training.cells.stack import StackShape, State, Step


class GRUStack(LibraryStack):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t [H], each W [H,X], each U
    [H,H]:

    r, z = s(W x_t + U h_{t-1} + b) each,  n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + b'_n))
    h_t = (1 - z) * n + z * h_{t-1}

    z is the share that is kept, the complement of Cho et al.'s z (see `gru_2014.py`). b_z starts at 1. Of torch's
    second bias only b'_n is trained, which r multiplies.
    """

    parts = ("h",)

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape, nn.GRU(**library_sizes(shape)))
        keep = slice(shape.hidden_size, 2 * shape.hidden_size)  # torch orders the gates r, z, n
        with torch.no_grad():
            for layer in range(shape.num_layers):
                self.weights(layer).bias_ih[keep].fill_(KEEPING_BIAS)
                self.weights(layer).bias_hh.requires_grad_().register_hook(_only_new)  # type: ignore[no-untyped-call]

    @property
    def num_dead(self) -> int:
        """The number of rows of r and z in torch's second bias."""
        return 2 * self.shape.hidden_size * self.shape.num_layers

    def run_layer(self, x_TBX: torch.Tensor, state: State, weights: LayerWeights) -> tuple[torch.Tensor, State]:
        y_TBH, h_1BH = torch.gru(x_TBX, state[0], list(weights), True, 1, 0.0, self.training, False, False)
        return y_TBH, (h_1BH,)

    def step_layer(self, x_BX: torch.Tensor, state: State, weights: LayerWeights) -> Step:
        (h_BH,) = state
        r, z, n = functional.linear(x_BX, weights.weight_ih, weights.bias_ih).chunk(3, dim=1)
        from_r, from_z, from_n = functional.linear(h_BH, weights.weight_hh, weights.bias_hh).chunk(3, dim=1)
        gates = {"r": torch.sigmoid(r + from_r), "z": torch.sigmoid(z + from_z)}
        gates["n"] = torch.tanh(n + gates["r"] * from_n)
        h_BH = (1.0 - gates["z"]) * gates["n"] + gates["z"] * h_BH
        return Step(h_BH, (h_BH,), gates)


def _only_new(grad_G: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of the gate n alone, the last of three."""
    return torch.cat([torch.zeros_like(grad_G[: 2 * len(grad_G) // 3]), grad_G[2 * len(grad_G) // 3 :]])
