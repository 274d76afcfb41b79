"""This module computes h_t = k_t * h_{t-1} + a_t for all t, where neither k nor a depends on h, and its backward pass.

On a GPU it computes all steps at once, in log2(T) passes that each double the reach (Hillis & Steele 1986). On a CPU a
plain loop does less work and is faster. Legend: T steps, B lanes, H width.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

Tensor = torch.Tensor


def linear_scan(kept_TBH: Tensor, added_TBH: Tensor, h_BH: Tensor) -> Tensor:
    """Returns h_TBH after every step."""
    h_TBH: Tensor = _LinearScan.apply(kept_TBH, added_TBH, h_BH)  # type: ignore[no-untyped-call]
    return h_TBH


def scan_in_order(kept_TBH: Tensor, added_TBH: Tensor, h_BH: Tensor) -> Tensor:
    """Computes one step after the other."""
    h_TBH = torch.empty_like(added_TBH)
    for t in range(len(added_TBH)):
        h_BH = torch.addcmul(added_TBH[t], kept_TBH[t], h_BH, out=h_TBH[t])
    return h_TBH


def scan_by_doubling(kept_TBH: Tensor, added_TBH: Tensor, h_BH: Tensor) -> Tensor:
    """After the pass with stride s, every row covers the 2s steps up to it, or all steps if there are fewer."""
    kept, added, stride = kept_TBH, added_TBH, 1
    while stride < len(kept):
        added = torch.cat([added[:stride], torch.addcmul(added[stride:], kept[stride:], added[:-stride])])
        kept = torch.cat([kept[:stride], kept[stride:] * kept[:-stride]])
        stride *= 2
    return torch.addcmul(added, kept, h_BH)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept_TBH: Tensor, added_TBH: Tensor, h_BH: Tensor) -> Tensor:
        h_TBH = _scan(kept_TBH, added_TBH, h_BH)
        ctx.save_for_backward(kept_TBH, h_TBH, h_BH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the same scan backwards in time: the gradient of h_t is grad_t plus k_{t+1} times that of h_{t+1}."""
        kept_TBH, h_TBH, h_BH = ctx.saved_tensors
        after_TBH = torch.cat([kept_TBH[1:], torch.zeros_like(kept_TBH[:1])]).flip(0)
        total_TBH = _scan(after_TBH, grad_TBH.flip(0), torch.zeros_like(h_BH)).flip(0)
        before_TBH = torch.cat([h_BH[None], h_TBH[:-1]])
        return total_TBH * before_TBH, total_TBH, total_TBH[0] * kept_TBH[0]


def _scan(kept_TBH: Tensor, added_TBH: Tensor, h_BH: Tensor) -> Tensor:
    scan = scan_by_doubling if added_TBH.is_cuda else scan_in_order
    return scan(kept_TBH, added_TBH, h_BH)
