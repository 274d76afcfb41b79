"""This module is minLSTM (Feng et al. 2024). Its gates do not read the state, so training is parallel over time."""

import torch
from torch.nn import functional

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, RecurrentLayer
from carousel_training.cells.linear_scan import linear_scan
from carousel_training.cells.memory import wide_type
from carousel_training.cells.stack import StackShape, State, Step


class MinLSTMLayer(RecurrentLayer):
    """Computes, with s the logistic function, * and / element-wise, x_t [X], h_t [H], each W [H,X]:

    f, i = s(W x_t + b) each,  n = W_n x_t + b_n,  h_t = f / (f + i) * h_{t-1} + i / (f + i) * n

    f / (f + i) is computed as s(log f - log i), which is never 0 / 0. b_f starts at 1.
    """

    gates = ("f", "i", "n")
    num_recurrent = 0

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        with torch.no_grad():
            self.bias[self.rows("f")].fill_(KEEPING_BIAS)

    def sequence(self, x_TBX: torch.Tensor, state: State, below_TBH: torch.Tensor | None) -> LayerRun:
        pre_TBG = self.from_input(x_TBX)
        wide = pre_TBG.to(wide_type(pre_TBG.dtype))
        kept_TBH = _share_kept(wide[..., self.rows("f")], wide[..., self.rows("i")])
        h_TBH = linear_scan(kept_TBH, (1.0 - kept_TBH) * wide[..., self.rows("n")], state[0].to(wide.dtype))
        return LayerRun(h_TBH.to(pre_TBG.dtype), (h_TBH[-1],))

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        sums = self.split(self.from_input(x_BX))
        kept_BH = _share_kept(sums["f"], sums["i"])
        h_BH = kept_BH * state[0] + (1.0 - kept_BH) * sums["n"]
        gates = {"f": torch.sigmoid(sums["f"]), "i": torch.sigmoid(sums["i"]), "n": sums["n"]}
        return Step(h_BH, (h_BH,), gates)


class MinLSTMStack(LayeredStack):
    layer_type = MinLSTMLayer


def _share_kept(f_BH: torch.Tensor, i_BH: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(functional.softplus(-i_BH) - functional.softplus(-f_BH))
