"""This module is the GRU of Cho et al. (2014). Its reset gate acts before the recurrent product."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from carousel_training.cells.initial import KEEPING_BIAS
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, RecurrentLayer
from carousel_training.cells.memory import add_product, flat_product, wide_type
from carousel_training.cells.stack import StackShape, State, Step

Tensor = torch.Tensor


class GRU2014Layer(RecurrentLayer):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], h_t [H], each W [H,X], each U
    [H,H]:

    r, z = s(W x_t + U h_{t-1} + b) each,  n = tanh(W_n x_t + U_n (r * h_{t-1}) + b_n)
    h_t = (1 - z) * h_{t-1} + z * n

    z is the share that is new. Cho et al. and the libraries (`gru.py`) call the share that is kept z, which is 1 minus
    this z. b_z starts at -1, so a fresh network remembers.
    """

    gates = ("r", "z", "n")
    num_recurrent = 3

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        with torch.no_grad():
            self.bias[self.rows("z")].fill_(-KEEPING_BIAS)

    def sequence(self, x_TBX: Tensor, state: State, below_TBH: Tensor | None) -> LayerRun:
        arguments = (self.from_input(x_TBX), state[0], self.recurrent())
        y_TBH: Tensor = _ResetBefore.apply(*arguments)  # type: ignore[no-untyped-call]
        return LayerRun(y_TBH, (y_TBH[-1],))

    def step(self, x_BX: Tensor, state: State, below_BH: Tensor | None) -> Step:
        (h_BH,) = state
        sums, rows = self.split(self.from_input(x_BX)), self.weight_hh
        gates = {name: torch.sigmoid(sums[name] + h_BH @ rows[self.rows(name)].t()) for name in ("r", "z")}
        gates["n"] = torch.tanh(sums["n"] + (gates["r"] * h_BH) @ rows[self.rows("n")].t())
        h_BH = (1.0 - gates["z"]) * h_BH + gates["z"] * gates["n"]
        return Step(h_BH, (h_BH,), gates)


class GRU2014Stack(LayeredStack):
    layer_type = GRU2014Layer


class _ResetBefore(torch.autograd.Function):
    """Runs in-place steps and their backward pass. S = T + 1, with the earlier state in front; G = 3 x H: r, z, n."""

    @staticmethod
    def forward(ctx: Any, pre_TBG: Tensor, h_BH: Tensor, weight_hh: Tensor) -> Tensor:
        narrow, size = pre_TBG.dtype, h_BH.shape[1]
        act_TBG = pre_TBG.to(wide_type(narrow), copy=True)
        h_SBH = torch.empty(len(pre_TBG) + 1, *h_BH.shape, dtype=act_TBG.dtype, device=pre_TBG.device)
        reset_TBH = torch.empty_like(pre_TBG[..., :size])
        h_SBH[0] = h_BH
        columns = weight_hh.to(narrow).t()
        gate_columns, new_columns = columns[:, : 2 * size].contiguous(), columns[:, 2 * size :].contiguous()
        for t in range(len(pre_TBG)):
            act_BG, h_BH = act_TBG[t], h_SBH[t]
            add_product(act_BG[:, : 2 * size], h_BH.to(narrow), gate_columns)
            act_BG[:, : 2 * size].sigmoid_()
            reset_TBH[t] = act_BG[:, :size] * h_BH
            add_product(act_BG[:, 2 * size :], reset_TBH[t], new_columns)
            torch.lerp(h_BH, act_BG[:, 2 * size :].tanh_(), act_BG[:, size : 2 * size], out=h_SBH[t + 1])
        ctx.save_for_backward(act_TBG, h_SBH, reset_TBH, weight_hh)
        return h_SBH[1:].to(narrow)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        act_TBG, h_SBH, reset_TBH, weight_hh = ctx.saved_tensors
        narrow, size = reset_TBH.dtype, h_SBH.shape[2]
        r, z, n = act_TBG.chunk(3, dim=2)
        slope_r, slope_z, slope_n = h_SBH[:-1] * r * (1 - r), (n - h_SBH[:-1]) * z * (1 - z), z * (1 - n * n)
        kept_TBH, grad_TBG = 1 - z, torch.empty_like(act_TBG)
        dh_BH, rows = torch.zeros_like(h_SBH[0]), weight_hh.to(narrow)
        for t in range(len(act_TBG) - 1, -1, -1):
            grad_BG = grad_TBG[t]
            dh_BH += grad_y_TBH[t]
            torch.mul(dh_BH, slope_n[t], out=grad_BG[:, 2 * size :])
            torch.mul(dh_BH, slope_z[t], out=grad_BG[:, size : 2 * size])
            d_reset_BH = torch.mm(grad_BG[:, 2 * size :].to(narrow), rows[2 * size :]).to(dh_BH.dtype)
            torch.mul(d_reset_BH, slope_r[t], out=grad_BG[:, :size])
            through_gates_BH = torch.mm(grad_BG[:, : 2 * size].to(narrow), rows[: 2 * size])
            dh_BH = (dh_BH * kept_TBH[t]).addcmul_(d_reset_BH, r[t]).add_(through_gates_BH)
        at_gates = flat_product(grad_TBG[..., : 2 * size], h_SBH[:-1].to(narrow))
        grad_hh = torch.cat([at_gates, flat_product(grad_TBG[..., 2 * size :], reset_TBH)])
        return grad_TBG.to(narrow), dh_BH, grad_hh.to(weight_hh.dtype)
