"""This module is minGRU (Feng et al. 2024). Its gate does not read the state, so training is parallel over time."""

import torch

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, RecurrentLayer
from carousel_training.cells.linear_scan import linear_scan
from carousel_training.cells.memory import wide_type
from carousel_training.cells.stack import StackShape, State, Step


class MinGRULayer(RecurrentLayer):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t [H], each W [H,X]:

    z = s(W_z x_t + b_z),  n = W_n x_t + b_n,  h_t = (1 - z) * h_{t-1} + z * n

    This is the form without log-space, whose state can be negative. b_z starts at -1, so a fresh network remembers.
    """

    gates = ("z", "n")
    num_recurrent = 0

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        with torch.no_grad():
            self.bias[self.rows("z")].fill_(-KEEPING_BIAS)

    def sequence(self, x_TBX: torch.Tensor, state: State, below_TBH: torch.Tensor | None) -> LayerRun:
        pre_TBG = self.from_input(x_TBX)
        wide = pre_TBG.to(wide_type(pre_TBG.dtype))
        z_TBH, n_TBH = torch.sigmoid(wide[..., self.rows("z")]), wide[..., self.rows("n")]
        h_TBH = linear_scan(1.0 - z_TBH, z_TBH * n_TBH, state[0].to(wide.dtype))
        return LayerRun(h_TBH.to(pre_TBG.dtype), (h_TBH[-1],))

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        sums = self.split(self.from_input(x_BX))
        z_BH = torch.sigmoid(sums["z"])
        h_BH = (1.0 - z_BH) * state[0] + z_BH * sums["n"]
        return Step(h_BH, (h_BH,), {"z": z_BH, "n": sums["n"]})


class MinGRUStack(LayeredStack):
    layer_type = MinGRULayer
