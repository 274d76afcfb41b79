"""The depth-gated LSTM (Yao et al. 2015): a gate lets the memory of the layer below into the memory of this one."""

import torch
from torch import nn

from carousel_training.cells.layered_stack import LayeredStack, LayerRun
from carousel_training.cells.memory import Looks
from carousel_training.cells.memory_layer import MemoryLayer
from carousel_training.cells.stack import StackShape, State, Step


class DepthGatedLSTMLayer(MemoryLayer):
    """s the logistic function, * the element-wise product; x_t [X], h_t and c_t [H], each W [H,X], each U [H,H], each
    w [H]; an upper l is the layer, and x_t of a layer is h_t of the one below:

    i, f, o = s(W x_t + U h_{t-1} + b) each,  g = tanh(W_g x_t + U_g h_{t-1} + b_g)
    d = s(W_d x_t + w_cd * c_{t-1}^l + w_ld * c_t^{l-1} + b_d)
    c_t^l = f * c_{t-1}^l + i * g + d * c_t^{l-1},  h_t = o * tanh(c_t)

    The bottom layer has nothing below it and no d: it is a plain LSTM.
    """

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        size = shape.hidden_size
        self.weight_d = None if layer == 0 else nn.Parameter(torch.empty(size, size))
        self.bias_d = None if layer == 0 else nn.Parameter(torch.zeros(size))
        self.weight_cd = None if layer == 0 else nn.Parameter(torch.zeros(size))
        self.weight_ld = None if layer == 0 else nn.Parameter(torch.zeros(size))
        if self.weight_d is not None:
            nn.init.uniform_(self.weight_d, -(size**-0.5), size**-0.5)

    def sequence(self, x_TBX: torch.Tensor, state: State, below_TBH: torch.Tensor | None) -> LayerRun:
        pre_TBG = self.from_input(x_TBX)
        if below_TBH is None or self.weight_cd is None:
            return self._run(pre_TBG, state, Looks())
        depth_TBH = self._depth(x_TBX, below_TBH).to(pre_TBG.dtype)
        looks = Looks(depth=self.weight_cd, below_TBH=below_TBH)
        return self._run(torch.cat([pre_TBG, depth_TBH], dim=2), state, looks)

    def step(self, x_BX: torch.Tensor, state: State, below_BH: torch.Tensor | None) -> Step:
        plain = super().step(x_BX, state, None)
        if below_BH is None or self.weight_cd is None:
            return plain
        d_BH = torch.sigmoid(self._depth(x_BX, below_BH) + self.weight_cd * state[1])
        c_BH = plain.state[1] + d_BH * below_BH
        h_BH = plain.gates["o"] * torch.tanh(c_BH)
        return Step(h_BH, (h_BH, c_BH), {**plain.gates, "d": d_BH})

    def _depth(self, x_TBX: torch.Tensor, below_TBH: torch.Tensor) -> torch.Tensor:
        """What the depth gate sees besides c_{t-1}: all steps at once."""
        assert self.weight_d is not None
        assert self.weight_ld is not None
        return nn.functional.linear(x_TBX, self.weight_d, self.bias_d) + self.weight_ld * below_TBH


class DepthGatedLSTMStack(LayeredStack):
    layer_type = DepthGatedLSTMLayer
