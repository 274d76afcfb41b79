"""The output layer and its cross-entropy in one, a block of rows at a time, with the gradient computed in the forward
pass.

The usual way keeps N x V logits, a float32 copy and their gradient until the backward pass. Here no more than one block
of them exists, and on a CPU a block stays in the cache. Legend: N rows, D width of the rows, V vocabulary.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

BLOCK_LOGITS = 1 << 21  # 8 MiB of float32
MIN_BLOCK_ROWS = 256  # below it, adding up V x D gradients costs more than the cache saves


def output_loss(
    rows_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor, targets_N: torch.Tensor
) -> torch.Tensor:
    """Returns the mean cross-entropy in nats of softmax(rows @ weight' + bias) at the targets.

    Products run in the dtype of `rows_ND`, everything else in float32. The gradient is exact; there is no second
    derivative.
    """
    loss: torch.Tensor = _OutputLoss.apply(rows_ND, weight_VD, bias_V, targets_N)  # type: ignore[no-untyped-call]
    return loss


class _OutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor, targets_N: torch.Tensor
    ) -> torch.Tensor:
        num_rows, vocabulary_size = len(rows_ND), len(weight_VD)
        block = max(MIN_BLOCK_ROWS, BLOCK_LOGITS // vocabulary_size)
        weight, bias = weight_VD.to(rows_ND.dtype), bias_V.to(rows_ND.dtype)
        grad_rows_ND = torch.empty_like(rows_ND)
        grad_weight_VD, grad_bias_V = torch.zeros_like(weight_VD), torch.zeros_like(bias_V)
        total = torch.zeros((), dtype=torch.float32, device=rows_ND.device)
        for start in range(0, num_rows, block):
            rows_nD, targets_n1 = rows_ND[start : start + block], targets_N[start : start + block, None]
            logits_nV = torch.addmm(bias, rows_nD, weight.t()).float()
            normalizer_n1 = torch.logsumexp(logits_nV, dim=1, keepdim=True)
            total += (normalizer_n1 - logits_nV.gather(1, targets_n1)).sum()
            delta_nV = logits_nV.sub_(normalizer_n1).exp_()
            delta_nV.scatter_add_(1, targets_n1, delta_nV.new_full((1, 1), -1.0).expand(len(rows_nD), 1))
            delta = delta_nV.div_(num_rows).to(rows_ND.dtype)
            grad_rows_ND[start : start + block] = delta @ weight
            grad_weight_VD += delta.t() @ rows_nD
            grad_bias_V += delta_nV.sum(0)
        ctx.save_for_backward(grad_rows_ND, grad_weight_VD, grad_bias_V)
        return total / num_rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_rows_ND, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        # mul, not mul_: backward may read a saved tensor again when the graph is retained.
        return grad_rows_ND * grad.to(grad_rows_ND.dtype), grad_weight_VD * grad, grad_bias_V * grad, None
