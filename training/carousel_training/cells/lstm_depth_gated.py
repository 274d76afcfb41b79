"""This module is the depth-gated LSTM (Yao et al. 2015). A gate adds the memory of the layer below to the layer's
own."""

import torch
from torch import nn

from carousel_training.cells.initial import initialise_input
from carousel_training.cells.layered_stack import LayeredStack, LayerRun
from carousel_training.cells.lstm_peephole import PeepholeLSTMLayer
from carousel_training.cells.stack import StackShape, State, Step


class DepthGatedLSTMLayer(PeepholeLSTMLayer):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t and c_t [H], each W [H,X],
    each U [H,H], each w [H]; an upper index l is the layer, and x_t of a layer is h_t of the layer below:

    i = s(W_i x_t + U_i h_{t-1} + w_ci * c_{t-1} + b_i),  f = s(W_f x_t + U_f h_{t-1} + w_cf * c_{t-1} + b_f)
    g = tanh(W_g x_t + U_g h_{t-1} + b_g),  d = s(W_d x_t + w_cd * c_{t-1}^l + w_ld * c_t^{l-1} + b_d)
    c_t^l = f * c_{t-1}^l + i * g + d * c_t^{l-1}
    o = s(W_o x_t + U_o h_{t-1} + w_co * c_t + b_o),  h_t = o * tanh(c_t)

    The LSTM has peepholes, as in the paper. The authors' program couples f = 1 - i; this module does not. The bottom
    layer has no layer below and no d: one layer equals `lstm_peephole.py`. (In the authors' program its d gates W x_t.)
    """

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        size = shape.hidden_size
        self.weight_d = None if layer == 0 else nn.Parameter(torch.empty(size, size))
        self.bias_d = None if layer == 0 else nn.Parameter(torch.zeros(size))
        self.weight_cd = None if layer == 0 else nn.Parameter(torch.zeros(size))
        self.weight_ld = None if layer == 0 else nn.Parameter(torch.zeros(size))
        if self.weight_d is not None:
            initialise_input(self.weight_d)

    def sequence(self, x_TBX: torch.Tensor, state: State, below_TBH: torch.Tensor | None) -> LayerRun:
        pre_TBG = self.from_input(x_TBX)
        if below_TBH is None or self.weight_cd is None:
            return self._run(pre_TBG, state, self.looks())
        depth_TBH = self._depth(x_TBX, below_TBH).to(pre_TBG.dtype)
        looks = self.looks()._replace(depth=self.weight_cd, below_TBH=below_TBH)
        return self._run(torch.cat([pre_TBG, depth_TBH], dim=2), state, looks)

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        if below_BH is None or self.weight_cd is None:
            return super().step(x_BX, state, None)
        h_BH, c_BH = state
        sums, gates = self.sums(x_BX, h_BH), dict[str, torch.Tensor]()
        gates["d"] = torch.sigmoid(self._depth(x_BX, below_BH) + self.weight_cd * c_BH)
        c_BH = self.remember(sums, c_BH, gates) + gates["d"] * below_BH
        h_BH = self.show(sums, c_BH, gates)
        return Step(h_BH, (h_BH, c_BH), gates)

    def _depth(self, x_TBX: torch.Tensor, below_TBH: torch.Tensor) -> torch.Tensor:
        """Returns the depth gate's sums without c_{t-1}, for all steps at once."""
        assert self.weight_d is not None
        assert self.weight_ld is not None
        return nn.functional.linear(x_TBX, self.weight_d, self.bias_d) + self.weight_ld * below_TBH


class DepthGatedLSTMStack(LayeredStack):
    layer_type = DepthGatedLSTMLayer
