"""This module is the fast pass of the sLSTM: a loop of in-place steps for all heads, with a hand-written backward pass.

Each step computes, with s the logistic function and * and / element-wise, the sums z, i, f, o = pre_t + R h_{t-1}:

m_t = max(log s(f) + m_{t-1}, i),  kept = exp(log s(f) + m_{t-1} - m_t),  new = exp(i - m_t)
c_t = kept * c_{t-1} + new * tanh(z),  n_t = kept * n_{t-1} + new,  h_t = s(o) * c_t / n_t

h does not depend on the choice of m, so m is a constant for the loss of the outputs. The gradient of m in a final
state goes to the gate that won the last maximum. Legend: T steps, B lanes, N heads of width D, H = N x D, G = 4 x H,
S = T + 1 with the earlier state in front, 2 for c and n.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from carousel_training.cells.heads import from_heads, to_heads
from carousel_training.cells.memory import wide_type

Tensor = torch.Tensor


def run_scalar_memory(
    pre_TBG: Tensor, state: tuple[Tensor, ...], columns_NDK: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns y_TBH in the type of `pre_TBG`, and c, n, m [B,H] after the last step in float32 or wider.

    `state` is h, c, n, m; `columns_NDK` with K = 4D multiplies h.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _ScalarMemory.apply(  # type: ignore[no-untyped-call]
        pre_TBG, *state, columns_NDK
    )
    return found


class _ScalarMemory(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre_TBG: Tensor, h_BH: Tensor, c_BH: Tensor, n_BH: Tensor, m_BH: Tensor, columns_NDK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        narrow, wide = pre_TBG.dtype, wide_type(pre_TBG.dtype)
        num_heads, head_size, _ = columns_NDK.shape
        num_steps, num_lanes, _ = pre_TBG.shape
        act_TNBK = to_heads(pre_TBG, num_heads, 4).to(wide, memory_format=torch.contiguous_format, copy=True)
        size = (num_heads, num_lanes, head_size)
        h_SNBD = pre_TBG.new_empty(num_steps + 1, *size)
        memory_S2NBD = act_TNBK.new_empty(num_steps + 1, 2, *size)
        shares_T2NBD = act_TNBK.new_empty(num_steps, 2, *size)  # kept, new
        h_SNBD[0], m_NBD = to_heads(h_BH, num_heads), to_heads(m_BH, num_heads).to(wide)
        memory_S2NBD[0, 0], memory_S2NBD[0, 1] = to_heads(c_BH, num_heads), to_heads(n_BH, num_heads)
        columns = columns_NDK.to(narrow).contiguous()
        for t in range(num_steps):
            _add_products(act_TNBK[t], h_SNBD[t], columns)
            z, i, f, o = act_TNBK[t].chunk(4, dim=2)
            kept_NBD = functional.logsigmoid(f) + m_NBD
            m_NBD = torch.maximum(kept_NBD, i)
            shares_2NBD = torch.stack([kept_NBD, i]).sub_(m_NBD).exp_()
            shares_T2NBD[t] = shares_2NBD
            torch.mul(memory_S2NBD[t], shares_2NBD[0], out=memory_S2NBD[t + 1])
            memory_S2NBD[t + 1, 0].addcmul_(shares_2NBD[1], z.tanh_())
            memory_S2NBD[t + 1, 1].add_(shares_2NBD[1])
            torch.mul(o.sigmoid_(), memory_S2NBD[t + 1, 0] / memory_S2NBD[t + 1, 1], out=h_SNBD[t + 1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(act_TNBK, h_SNBD, memory_S2NBD, shares_T2NBD, columns_NDK)
        c_NBD, n_NBD = memory_S2NBD[-1]
        return from_heads(h_SNBD[1:]), from_heads(c_NBD), from_heads(n_NBD), from_heads(m_NBD)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_c: Tensor | None, grad_n: Tensor | None, grad_m: Tensor | None
    ) -> tuple[Tensor, ...]:
        act_TNBK, h_SNBD, memory_S2NBD, shares_T2NBD, columns_NDK = ctx.saved_tensors
        num_heads, narrow = len(columns_NDK), h_SNBD.dtype
        slopes = _Slopes(act_TNBK, memory_S2NBD, shares_T2NBD)
        d_memory_2NBD = torch.zeros_like(memory_S2NBD[0])
        for d_NBD, grad_BH in zip(d_memory_2NBD, (grad_c, grad_n), strict=True):
            if grad_BH is not None:
                d_NBD.copy_(to_heads(grad_BH, num_heads))
        beyond_NBD = -(d_memory_2NBD * memory_S2NBD[-1]).sum(0)
        if grad_m is not None:
            beyond_NBD += to_heads(grad_m, num_heads)
        has_ends = any(grad is not None for grad in (grad_c, grad_n, grad_m))
        ends = _follow_maximum(beyond_NBD, shares_T2NBD[:, 0], act_TNBK) if has_ends else None
        grad_TNBK = torch.empty_like(act_TNBK)
        grad_y_TNBD = None if grad_y is None else to_heads(grad_y, num_heads)
        dh_NBD, rows_NKD = torch.zeros_like(memory_S2NBD[0, 0]), columns_NDK.to(narrow).transpose(1, 2)
        for t in range(len(act_TNBK) - 1, -1, -1):
            if grad_y_TNBD is not None:
                dh_NBD += grad_y_TNBD[t]
            slopes.write(t, dh_NBD, d_memory_2NBD, grad_TNBK[t])
            if ends is not None:
                grad_TNBK[t] += ends.gates_TNBK[t]
            dh_NBD = torch.bmm(grad_TNBK[t].to(narrow), rows_NKD).to(dh_NBD.dtype)
        dm_NBD = (d_memory_2NBD * memory_S2NBD[0]).sum(0)
        dm_NBD = dm_NBD if ends is None else dm_NBD + ends.m_NBD
        grad_columns = torch.einsum("tnbd,tnbk->ndk", h_SNBD[:-1], grad_TNBK.to(narrow))
        state_grads = (from_heads(dh_NBD).to(narrow), *map(from_heads, (*d_memory_2NBD, dm_NBD)))
        return from_heads(grad_TNBK, 4).to(narrow), *state_grads, grad_columns.to(columns_NDK.dtype)


class _Slopes:
    """Derivatives that do not depend on later steps, for all steps at once."""

    def __init__(self, act_TNBK: Tensor, memory_S2NBD: Tensor, shares_T2NBD: Tensor) -> None:
        z, _, f, o = act_TNBK.chunk(4, dim=3)
        kept, new = shares_T2NBD.unbind(1)
        ratio = memory_S2NBD[1:, 0] / memory_S2NBD[1:, 1]
        through = o / memory_S2NBD[1:, 1]
        self.kept = kept
        self.output = ratio * o * (1 - o)
        self.memory = torch.stack([through, -through * ratio], dim=1)  # of h by c and n
        closing = kept * torch.sigmoid(-f)  # of kept by f's sum
        self.by_c = torch.cat([new * (1 - z * z), new * z, closing * memory_S2NBD[:-1, 0]], dim=3)
        self.by_n = torch.cat([new, closing * memory_S2NBD[:-1, 1]], dim=3)

    def write(self, t: int, dh_NBD: Tensor, d_memory_2NBD: Tensor, grad_NBK: Tensor) -> None:
        """Writes the gradients by the sums of step t, and turns `d_memory` into that of the step before."""
        size = dh_NBD.shape[2]
        d_memory_2NBD.addcmul_(dh_NBD, self.memory[t])
        torch.mul(d_memory_2NBD[0].repeat(1, 1, 3), self.by_c[t], out=grad_NBK[..., : 3 * size])
        grad_NBK[..., size : 3 * size].addcmul_(d_memory_2NBD[1].repeat(1, 1, 2), self.by_n[t])
        torch.mul(dh_NBD, self.output[t], out=grad_NBK[..., 3 * size :])
        d_memory_2NBD *= self.kept[t]


class _Ends(NamedTuple):
    """The gradients that the final state's m, beyond c and n, gives to the gates' sums and to the m before."""

    gates_TNBK: Tensor
    m_NBD: Tensor


def _follow_maximum(beyond_NBD: Tensor, kept_TNBD: Tensor, act_TNBK: Tensor) -> _Ends:
    """Goes back through forget gates, as long as they were the maximum, to the input gate that was."""
    is_kept_TNBD = (kept_TNBD == 1.0).to(beyond_NBD.dtype)
    reaching_TNBD = torch.cumprod(is_kept_TNBD.flip(0), 0).flip(0)  # from the end to before each step
    arriving_TNBD = torch.cat([reaching_TNBD[1:], torch.ones_like(reaching_TNBD[:1])]) * beyond_NBD
    f = act_TNBK.chunk(4, dim=3)[2]
    at_i, at_f = arriving_TNBD * (1 - is_kept_TNBD), arriving_TNBD * is_kept_TNBD * torch.sigmoid(-f)
    nothing = torch.zeros_like(f)
    return _Ends(torch.cat([nothing, at_i, at_f, nothing], dim=3), reaching_TNBD[0] * beyond_NBD)


def _add_products(sum_NBK: Tensor, h_NBD: Tensor, columns_NDK: Tensor) -> None:
    """Adds h @ columns to the sum for every head, in place. The product has the type of its factors."""
    if sum_NBK.dtype == columns_NDK.dtype:
        sum_NBK.baddbmm_(h_NBD, columns_NDK)
    else:
        sum_NBK += torch.bmm(h_NBD, columns_NDK)
