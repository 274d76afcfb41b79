"""This module is the clockwork network (Koutnik et al. 2014): groups of units that update at different rates."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from carousel.bundle.layout import StateLayout, StateTensor
from carousel_training.cells.initial import initialise_orthogonal
from carousel_training.cells.layered_stack import LayeredStack, LayerRun, RecurrentLayer
from carousel_training.cells.memory import add_product, flat_product, wide_type
from carousel_training.cells.stack import StackShape, State, Step

Tensor = torch.Tensor


class ClockworkLayer(RecurrentLayer):
    """K groups of H / K units, group k with the period T_k = 2^k; t counts the tokens before this one, from 0. x_t [X],
    h_t [H], W [H,X], U [H,H] in blocks [k,j], of which those with j < k are zero:

    n = tanh(W x_t + U h_{t-1} + b);  group k of h_t is n where t mod T_k = 0, and h_{t-1} elsewhere

    So a group reads slower groups and itself, never faster ones. The state is h and, once for all layers, t modulo the
    longest period. Each group's block of U on itself begins orthogonal (`initial.py`).
    """

    parts = ("h", "t")
    gates = ("n",)
    num_recurrent = 1

    def __init__(self, shape: StackShape, layer: int) -> None:
        super().__init__(shape, layer)
        group_H = torch.arange(shape.hidden_size) * shape.num_clocks // shape.hidden_size
        self.register_buffer("period_H", 2**group_H, persistent=False)
        self.register_buffer("reads_HH", (group_H[None, :] >= group_H[:, None]).float(), persistent=False)
        size = shape.hidden_size // shape.num_clocks
        for start in range(0, shape.hidden_size, size):  # each group's own block; the rest is as in gated cells
            initialise_orthogonal(self.weight_hh[start : start + size, start : start + size])

    period_H: Tensor
    reads_HH: Tensor

    @property
    def longest_period(self) -> int:
        return int(2 ** (self.shape.num_clocks - 1))

    def sequence(self, x_TBX: Tensor, state: State, below_TBH: Tensor | None) -> LayerRun:
        h_BH, t_B = state
        t_TB = t_B + torch.arange(len(x_TBX), device=t_B.device)[:, None]
        is_due_TBH = t_TB[..., None] % self.period_H == 0
        arguments = (self.from_input(x_TBX), h_BH, self.recurrent() * self.reads_HH, is_due_TBH)
        y_TBH: Tensor = _Clockwork.apply(*arguments)  # type: ignore[no-untyped-call]
        return LayerRun(y_TBH, (y_TBH[-1], (t_B + len(x_TBX)) % self.longest_period))

    def step(self, x_BX: Tensor, state: State, below_BH: Tensor | None) -> Step:
        h_BH, t_B = state
        new_BH = torch.tanh(self.from_input(x_BX) + h_BH @ (self.weight_hh * self.reads_HH).t())
        is_due_BH = t_B[:, None] % self.period_H == 0
        h_BH = torch.where(is_due_BH, new_BH, h_BH)
        return Step(h_BH, (h_BH, (t_B + 1) % self.longest_period), {"n": new_BH, "due": is_due_BH.to(new_BH.dtype)})


class ClockworkStack(LayeredStack):
    """Shares one counter between its layers, the last tensor of the state."""

    layer_type = ClockworkLayer

    @property
    def state_layout(self) -> StateLayout:
        size, layers = (self.shape.hidden_size,), range(self.shape.num_layers)
        hidden = tuple(StateTensor(f"h_{layer}", size, "float32") for layer in layers)
        return StateLayout((*hidden, StateTensor("t", (), "int64")))

    @property
    def num_dead(self) -> int:
        """The number of values in the masked blocks."""
        shape = self.shape
        num_blocks = shape.num_clocks * (shape.num_clocks - 1) // 2
        return shape.num_layers * num_blocks * (shape.hidden_size // shape.num_clocks) ** 2

    def forward(self, x_SBX: Tensor, state: State) -> tuple[Tensor, State]:
        y_TBH, after = super().forward(x_SBX, state)
        return y_TBH, (*after[::2], after[-1])

    def step(self, x_SBX: Tensor, state: State) -> Step:
        step = super().step(x_SBX, state)
        return step._replace(state=(*step.state[::2], step.state[-1]))

    def _of_layer(self, state: State, layer: int) -> State:
        return state[layer], state[-1]


class _Clockwork(torch.autograd.Function):
    """Runs the loop of in-place steps and its backward pass. S = T + 1, with the earlier state in front."""

    @staticmethod
    def forward(ctx: Any, pre_TBH: Tensor, h_BH: Tensor, weight_hh: Tensor, is_due_TBH: Tensor) -> Tensor:
        narrow = pre_TBH.dtype
        new_TBH = pre_TBH.to(wide_type(narrow), copy=True)
        h_SBH = torch.empty(len(pre_TBH) + 1, *h_BH.shape, dtype=narrow, device=pre_TBH.device)
        h_SBH[0] = h_BH
        columns = weight_hh.to(narrow).t().contiguous()
        for t in range(len(pre_TBH)):
            add_product(new_TBH[t], h_SBH[t], columns)
            torch.where(is_due_TBH[t], new_TBH[t].tanh_().to(narrow), h_SBH[t], out=h_SBH[t + 1])
        ctx.save_for_backward(new_TBH, h_SBH, weight_hh, is_due_TBH)
        return h_SBH[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_TBH: Tensor) -> tuple[Tensor | None, ...]:
        new_TBH, h_SBH, weight_hh, is_due_TBH = ctx.saved_tensors
        narrow = h_SBH.dtype
        slope_TBH = (1 - new_TBH * new_TBH) * is_due_TBH
        kept_TBH, grad_TBH = (~is_due_TBH).to(new_TBH.dtype), torch.empty_like(new_TBH)
        dh_BH, rows = torch.zeros_like(new_TBH[0]), weight_hh.to(narrow)
        for t in range(len(new_TBH) - 1, -1, -1):
            dh_BH += grad_y_TBH[t]
            torch.mul(dh_BH, slope_TBH[t], out=grad_TBH[t])
            through_BH = torch.mm(grad_TBH[t].to(narrow), rows)
            dh_BH = (dh_BH * kept_TBH[t]).add_(through_BH)
        grad_hh = flat_product(grad_TBH, h_SBH[:-1])
        return grad_TBH.to(narrow), dh_BH, grad_hh.to(weight_hh.dtype), None
