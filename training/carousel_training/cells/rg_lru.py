"""This module is Griffin's real-gated linear recurrent unit (De et al. 2024). The input decides how fast units
forget."""

import torch
from torch import nn
from torch.nn import functional

from carousel_training.cells.heads import block_columns, block_product, from_heads, to_heads
from carousel_training.cells.initial import initialise_input
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, StackLayer
from carousel_training.cells.linear_scan import linear_scan
from carousel_training.cells.memory import wide_type
from carousel_training.cells.stack import StackShape, State, Step

SHARPNESS = 8.0  # c: the factor by which a unit's gate can speed up forgetting
SLOWEST, FASTEST = 0.999, 0.9  # the range of a^c, so that fresh units remember 10 to 1000 steps
LEAST_NEW = 1e-12  # of 1 - a_t^2, whose root has no slope at 0
Tensor = torch.Tensor


class RGLRULayer(StackLayer):
    """Computes, with s the logistic function and * the element-wise product, x_t [X], u_t and h_t [H], W [H,X], V_r and
    V_i [H,H] in N blocks along the diagonal, L [H]:

    u = W x_t + b,  r, i = s(V u + b') each,  a_t = s(L)^(c r) with c = 8
    h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i * u)

    In the paper the input is x_t itself, of width H, between a convolution and a gate that are left out here. The root
    keeps the scale of h for any decay. L starts such that s(L)^c is uniform in [0.9, 0.999]. `weight_gates` [2H,D]
    holds the blocks of V_r, then those of V_i, each with D = H / N columns.
    """

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        size, head_size = shape.hidden_size, shape.head_size
        self.weight_in = nn.Parameter(torch.empty(size, self.input_size))
        self.bias_in = nn.Parameter(torch.zeros(size))
        self.weight_gates = nn.Parameter(torch.empty(2 * size, head_size))
        self.bias_gates = nn.Parameter(torch.zeros(2 * size))
        self.decay = nn.Parameter(torch.empty(size))
        for weight in (self.weight_in, self.weight_gates):
            initialise_input(weight)
        with torch.no_grad():
            log_a_H = torch.empty(size).uniform_(FASTEST, SLOWEST).log_() / SHARPNESS
            self.decay.copy_(log_a_H - torch.log(-torch.expm1(log_a_H)))

    def sequence(self, x_TBX: Tensor, state: State, below_TBH: Tensor | None) -> LayerRun:
        u_TBH = functional.linear(x_TBX, self.weight_in, self.bias_in)
        num_heads = self.shape.num_heads
        columns_NDK = block_columns(self.weight_gates, num_heads, 2).to(u_TBH.dtype)
        from_u_NMK = torch.bmm(to_heads(u_TBH.flatten(0, 1), num_heads), columns_NDK)
        from_u_TBG = torch.unflatten(from_heads(from_u_NMK, 2), 0, u_TBH.shape[:2])
        wide = wide_type(u_TBH.dtype)
        r_TBH, i_TBH = torch.sigmoid(from_u_TBG.to(wide) + self.bias_gates).chunk(2, dim=2)
        kept_TBH, added_TBH = self._mix(r_TBH, i_TBH * u_TBH)
        h_TBH = linear_scan(kept_TBH, added_TBH, state[0].to(wide))
        return LayerRun(h_TBH.to(u_TBH.dtype), (h_TBH[-1],))

    def step(self, x_BX: Tensor, state: State, below_BH: Tensor | None) -> Step:
        u_BH = functional.linear(x_BX, self.weight_in, self.bias_in)
        sums_BG = block_product(u_BH, self.weight_gates, self.shape.num_heads, 2) + self.bias_gates
        r_BH, i_BH = torch.sigmoid(sums_BG).chunk(2, dim=1)
        log_a_BH = SHARPNESS * r_BH * functional.logsigmoid(self.decay)
        a_BH = torch.exp(log_a_BH)
        new_BH = torch.sqrt((-torch.expm1(2.0 * log_a_BH)).clamp_min(LEAST_NEW)) * (i_BH * u_BH)
        h_BH = a_BH * state[0] + new_BH
        return Step(h_BH, (h_BH,), {"r": r_BH, "i": i_BH, "a": a_BH})

    def rates(self) -> Tensor:
        """Returns -c log s(L) [H], the factor of r in -log a_t."""
        return SHARPNESS * functional.softplus(-self.decay)

    def _mix(self, r_TBH: Tensor, gated_TBH: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a_t and the added part. expm1 gives 1 - a^2 without cancellation where a is near 1."""
        fade_TBH = r_TBH * self.rates()
        new_TBH = torch.sqrt((-torch.expm1(-2.0 * fade_TBH)).clamp_min(LEAST_NEW))
        return torch.exp(-fade_TBH), new_TBH * gated_TBH


class RGLRUStack(LayeredStack):
    """Its rate is high because fresh units remember long and have to learn to forget."""

    layer_type = RGLRULayer
    learning_rate = 1.2e-2
