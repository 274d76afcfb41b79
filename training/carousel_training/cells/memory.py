"""This module is the fast pass of cells with an additive memory c: a loop of in-place steps, with a hand-written
backward pass.

Each step computes, with s the logistic function and * the element-wise product:

o, i, f, g = pre_t + U h_{t-1};  i and f may read c_{t-1}, and o may read c_t, through a vector or a matrix
c_t = f * c_{t-1} + i * g  [+ d * below_t],  h_t = o * tanh(c_t)

where f is a learned gate, 1 - i, or 1, and d = s(pre_t + w * c_{t-1}). Weight gradients are one product over all
steps rather than one per step. Legend: T steps, B lanes, H width, G gates x H in the order o, i, f (if learned), g, d
(if there is a layer below), S = T + 1 with the earlier state in front.
"""

from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

Tensor = torch.Tensor


class Forget(StrEnum):
    """The factor of the memory at each step."""

    LEARNED = "learned"
    COUPLED = "coupled"
    NEVER = "never"


class Looks(NamedTuple):
    """Holds optional weights. `at_output` is [H] if diagonal, [H,H] if dense; `at_input`, for i and f, [2 x H] or
    [2 x H,H]. `depth` [H] needs `below_TBH`, the memory of the layer below."""

    at_output: Tensor | None = None
    at_input: Tensor | None = None
    depth: Tensor | None = None
    below_TBH: Tensor | None = None


def run_memory(
    forget: Forget, pre_TBG: Tensor, state: tuple[Tensor, ...], weight_hh: Tensor, looks: Looks
) -> tuple[Tensor, Tensor]:
    """Returns y_TBH in the type of `pre_TBG`, and the memory c_TBH in float32 or wider, after every step."""
    h_BH, c_BH = state
    arguments = (forget, pre_TBG, h_BH, c_BH, weight_hh, *looks)
    found: tuple[Tensor, Tensor] = _Memory.apply(*arguments)  # type: ignore[no-untyped-call]
    return found


class _Memory(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        forget: Forget,
        pre_TBG: Tensor,
        h_BH: Tensor,
        c_BH: Tensor,
        weight_hh: Tensor,
        at_output: Tensor | None,
        at_input: Tensor | None,
        depth: Tensor | None,
        below_TBH: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        narrow, wide = pre_TBG.dtype, wide_type(pre_TBG.dtype)
        num_steps, num_lanes, size = len(pre_TBG), *h_BH.shape
        act_TBG = pre_TBG.to(wide, copy=True)
        h_SBH = torch.empty(num_steps + 1, num_lanes, size, dtype=narrow, device=pre_TBG.device)
        c_SBH = torch.empty(num_steps + 1, num_lanes, size, dtype=wide, device=pre_TBG.device)
        h_SBH[0], c_SBH[0] = h_BH, c_BH
        num_recurrent = len(weight_hh)
        columns = weight_hh.to(narrow).t().contiguous()
        for t in range(num_steps):
            add_product(act_TBG[t, :, :num_recurrent], h_SBH[t], columns)
            below_BH = None if below_TBH is None else below_TBH[t]
            _advance(forget, act_TBG[t], c_SBH[t], c_SBH[t + 1], Looks(at_output, at_input, depth, below_BH))
            torch.mul(act_TBG[t, :, :size], torch.tanh(c_SBH[t + 1]), out=h_SBH[t + 1])
        ctx.forget = forget
        ctx.save_for_backward(act_TBG, h_SBH, c_SBH, weight_hh, at_output, at_input, depth, below_TBH)
        return h_SBH[1:], c_SBH[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_TBH: Tensor, grad_c_TBH: Tensor) -> tuple[Tensor | None, ...]:
        act_TBG, h_SBH, c_SBH, weight_hh, *rest = ctx.saved_tensors
        looks, narrow, size = Looks(*rest), h_SBH.dtype, h_SBH.shape[2]
        slopes = _slopes(ctx.forget, act_TBG, c_SBH, looks.below_TBH)
        grad_TBG, dc_TBH = torch.empty_like(act_TBG), torch.empty_like(c_SBH[1:])
        dh_BH, dc_BH = torch.zeros_like(c_SBH[0]), torch.zeros_like(c_SBH[0])
        num_recurrent, rows = len(weight_hh), weight_hh.to(narrow)
        for t in range(len(act_TBG) - 1, -1, -1):
            grad_BG = grad_TBG[t]
            dh_BH += grad_y_TBH[t]
            torch.mul(dh_BH, slopes.output_TBH[t], out=grad_BG[:, :size])
            dc_BH = dc_BH.add_(grad_c_TBH[t]).addcmul_(dh_BH, slopes.memory_TBH[t])
            if looks.at_output is not None:
                dc_BH += _look_back(grad_BG[:, :size], looks.at_output, size)
            dc_TBH[t] = dc_BH
            torch.mul(dc_BH[:, None], slopes.gates_TBkH[t], out=by_gate(grad_BG, size)[:, 1:])
            dc_BH = dc_BH if slopes.kept_TBH is None else dc_BH * slopes.kept_TBH[t]
            if looks.at_input is not None:
                dc_BH += _look_back(grad_BG[:, size : 3 * size], looks.at_input, size)
            if looks.depth is not None:
                dc_BH += grad_BG[:, -size:] * looks.depth
            dh_BH = torch.mm(grad_BG[:, :num_recurrent].to(narrow), rows).to(dc_BH.dtype)
        grad_hh = flat_product(grad_TBG[..., :num_recurrent], h_SBH[:-1])
        grads = _look_gradients(looks, grad_TBG, dc_TBH, act_TBG, c_SBH)
        return (None, grad_TBG.to(narrow), dh_BH.to(narrow), dc_BH, grad_hh.to(weight_hh.dtype), *grads)


def _advance(forget: Forget, act_BG: Tensor, c_BH: Tensor, c_next_BH: Tensor, looks: Looks) -> None:
    """Turns the gates' sums into their values in place, and writes the next memory."""
    size = c_BH.shape[1]
    first_sum = 0 if looks.at_output is None else size  # an output gate that sees c_t has to wait for it
    num_logistic = 3 if forget is Forget.LEARNED else 2
    if looks.at_input is not None:
        act_BG[:, size : 3 * size] += _look(c_BH, looks.at_input)
    act_BG[:, first_sum : num_logistic * size].sigmoid_()
    i_BH, g_BH = act_BG[:, size : 2 * size], act_BG[:, num_logistic * size : (num_logistic + 1) * size].tanh_()
    torch.mul(i_BH, g_BH, out=c_next_BH)
    match forget:
        case Forget.LEARNED:
            c_next_BH.addcmul_(act_BG[:, 2 * size : 3 * size], c_BH)
        case Forget.COUPLED:
            c_next_BH.add_(c_BH).addcmul_(i_BH, c_BH, value=-1)
        case Forget.NEVER:
            c_next_BH.add_(c_BH)
    if looks.depth is not None and looks.below_TBH is not None:
        c_next_BH.addcmul_(act_BG[:, -size:].addcmul_(c_BH, looks.depth).sigmoid_(), looks.below_TBH)
    if looks.at_output is not None:
        act_BG[:, :size].add_(_look(c_next_BH, looks.at_output)).sigmoid_()


class _Slopes(NamedTuple):
    """Derivatives that do not depend on later steps: of h_t by o's sum and by c_t, and of c_t by the other gates' sums
    and by c_{t-1} (None: 1).
    """

    output_TBH: Tensor
    memory_TBH: Tensor
    gates_TBkH: Tensor
    kept_TBH: Tensor | None


def _slopes(forget: Forget, act_TBG: Tensor, c_SBH: Tensor, below_TBH: Tensor | None) -> _Slopes:
    gates_TBkH = by_gate(act_TBG, c_SBH.shape[2])
    o, i, c_before = gates_TBkH[:, :, 0], gates_TBkH[:, :, 1], c_SBH[:-1]
    is_learned = forget is Forget.LEARNED
    f, g = gates_TBkH[:, :, 2] if is_learned else None, gates_TBkH[:, :, 3 if is_learned else 2]
    tanh_c = torch.tanh(c_SBH[1:])
    slopes = torch.empty_like(gates_TBkH[:, :, 1:])
    torch.mul(i * (1 - i), g - c_before if forget is Forget.COUPLED else g, out=slopes[:, :, 0])
    if f is not None:
        torch.mul(f * (1 - f), c_before, out=slopes[:, :, 1])
    torch.mul(i, 1 - g * g, out=slopes[:, :, 2 if is_learned else 1])
    if below_TBH is not None:
        d = gates_TBkH[:, :, -1]
        torch.mul(d * (1 - d), below_TBH, out=slopes[:, :, -1])
    kept = f if is_learned else 1 - i if forget is Forget.COUPLED else None
    return _Slopes(tanh_c * o * (1 - o), o * (1 - tanh_c * tanh_c), slopes, kept)


def _look_gradients(
    looks: Looks, grad_TBG: Tensor, dc_TBH: Tensor, act_TBG: Tensor, c_SBH: Tensor
) -> tuple[Tensor | None, ...]:
    """Returns the gradients in the order of `Looks`."""
    size = c_SBH.shape[2]
    at_output = at_input = depth = below = None
    if looks.at_output is not None:
        at_output = _look_gradient(grad_TBG[..., :size], c_SBH[1:], looks.at_output)
    if looks.at_input is not None:
        at_input = _look_gradient(grad_TBG[..., size : 3 * size], c_SBH[:-1], looks.at_input)
    if looks.depth is not None:
        depth = _look_gradient(grad_TBG[..., -size:], c_SBH[:-1], looks.depth)
        below = dc_TBH * act_TBG[..., -size:]
    return at_output, at_input, depth, below


def _look(c_BH: Tensor, weight: Tensor) -> Tensor:
    """Returns the memory's part in the sums of k gates, [B, k x H]."""
    if weight.dim() == 1:
        return c_BH.repeat(1, len(weight) // c_BH.shape[1]) * weight
    return torch.mm(c_BH, weight.t().to(c_BH.dtype))


def _look_back(grad_BK: Tensor, weight: Tensor, size: int) -> Tensor:
    """Returns the gradient by the memory that `_look` was given, [B,H]."""
    if weight.dim() == 1:
        return by_gate(grad_BK * weight, size).sum(1)
    return torch.mm(grad_BK, weight.to(grad_BK.dtype))


def _look_gradient(grad_TBK: Tensor, c_TBH: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() == 2:
        return flat_product(grad_TBK, c_TBH).to(weight.dtype)
    return (by_gate(grad_TBK, c_TBH.shape[2]) * c_TBH[:, :, None]).sum((0, 1)).flatten()


def by_gate(act_BG: Tensor, size: int) -> Tensor:
    """Returns [..., G] as [..., k, H]."""
    return act_BG.view(*act_BG.shape[:-1], act_BG.shape[-1] // size, size)


def wide_type(narrow: torch.dtype) -> torch.dtype:
    """Returns the type of sums and states: a memory that only grows by additions must not lose small ones."""
    return torch.float32 if narrow in (torch.bfloat16, torch.float16) else narrow


def add_product(sum_BG: Tensor, h_BH: Tensor, columns_HG: Tensor) -> None:
    """Adds h @ columns to the sum in place. The product has the type of its factors."""
    if sum_BG.dtype == columns_HG.dtype:
        sum_BG.addmm_(h_BH, columns_HG)
    else:
        sum_BG += torch.mm(h_BH, columns_HG)


def flat_product(grad_TBG: Tensor, h_TBH: Tensor) -> Tensor:
    """Returns the sum over steps and lanes of the outer products, [G,H]."""
    return torch.mm(grad_TBG.flatten(0, 1).to(h_TBH.dtype).t(), h_TBH.flatten(0, 1))
