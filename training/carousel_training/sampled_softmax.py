"""The cross-entropy of a large vocabulary from a part of it: each target against words drawn for every segment.

The estimate of the normaliser is unbiased, so training optimises the plain full softmax, and the model evaluates,
exports and serves as such. Legend: N rows, D width of the rows, V vocabulary, K drawn words.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from carousel_training.output_loss import BLOCK_LOGITS, MIN_BLOCK_ROWS

FLATTENING = 0.75  # the power of the word counts that draws are proportional to, as in Mikolov et al. 2013


class Negatives(NamedTuple):
    """K different words. A word drawn with a chance of 1/n stands for n words, so `log_weights_K` holds log n."""

    ids_K: torch.Tensor
    log_weights_K: torch.Tensor


class NegativeSampler:
    """Draws different words, each with a chance that grows with its count.

    The frequent words come every time, and only the sum over the rare ones is an estimate. All randomness is torch's
    global generator.

    The number of words never varies: on a CPU, a product's kernel is compiled and kept for each shape.
    """

    def __init__(self, counts_V: torch.Tensor, num_negatives: int) -> None:
        """Draws `num_negatives` words at a time. Words that do not occur count as occurring once."""
        self._chances_V = inclusion_chances(counts_V, num_negatives)
        self._points_K = torch.arange(min(num_negatives, len(counts_V)), dtype=torch.float64, device=counts_V.device)

    def __repr__(self) -> str:
        return f"NegativeSampler({len(self._points_K)} of {len(self._chances_V)} words)"

    def draw(self) -> Negatives:
        """Draws by systematic sampling.

        In a random order, every word occupies its chance's length of a line with points at a distance of 1, and no word
        is longer than that distance.
        """
        order_V = torch.randperm(len(self._chances_V), device=self._chances_V.device)
        ends_V = self._chances_V[order_V].cumsum(0, dtype=torch.float64)
        points_K = self._points_K + torch.rand_like(self._points_K[:1])
        places_K = torch.searchsorted(ends_V, points_K, right=True).clamp_max(len(ends_V) - 1)  # chances are rounded
        ids_K = order_V[places_K].sort().values
        return Negatives(ids_K, -self._chances_V[ids_K].log())


def inclusion_chances(counts_V: torch.Tensor, num_negatives: int) -> torch.Tensor:
    """Returns float32 chances_V, proportional to a power of the counts, cut at 1, with a sum of `num_negatives`."""
    if num_negatives >= len(counts_V):
        return torch.ones_like(counts_V, dtype=torch.float32)
    sizes_V, order_V = counts_V.double().clamp_min(1.0).pow(FLATTENING).sort(descending=True)
    rest_V = sizes_V.flip(0).cumsum(0).flip(0)  # of this word and all that are rarer
    left_V = num_negatives - torch.arange(len(sizes_V), dtype=torch.float64, device=sizes_V.device)
    num_certain = int((left_V * sizes_V >= rest_V).sum())
    chances_V = torch.ones_like(sizes_V)
    chances_V[num_certain:] = sizes_V[num_certain:] * left_V[num_certain] / rest_V[num_certain]
    return torch.empty_like(chances_V).scatter_(0, order_V, chances_V).float()


def sampled_loss(
    rows_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor, targets_N: torch.Tensor, negatives: Negatives
) -> torch.Tensor:
    """Estimates the mean cross-entropy in nats of softmax(rows @ weight' + bias) at the targets.

    Compares exp(target) with itself plus the other weighted negatives (Bengio & Senecal 2008; Blanc & Rendle 2018).
    With all words as negatives it is the cross-entropy itself. Products run in the dtype of `rows_ND`, everything else
    in float32.
    """
    loss: torch.Tensor = _SampledLoss.apply(  # type: ignore[no-untyped-call]
        rows_ND,
        functional.embedding(targets_N, weight_VD),  # summing its gradient is many times faster than an index's
        bias_V.index_select(0, targets_N),
        functional.embedding(negatives.ids_K, weight_VD),
        bias_V.index_select(0, negatives.ids_K) + negatives.log_weights_K,
        targets_N[:, None] == negatives.ids_K,
    )
    return loss


class _SampledLoss(torch.autograd.Function):
    """`own` belongs to the targets, `other` to the negatives; `is_own_NK` marks where both are the same word."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_ND: torch.Tensor,
        own_ND: torch.Tensor,
        own_bias_N: torch.Tensor,
        other_KD: torch.Tensor,
        other_bias_K: torch.Tensor,
        is_own_NK: torch.Tensor,
    ) -> torch.Tensor:
        num_rows, block = len(rows_ND), max(MIN_BLOCK_ROWS, BLOCK_LOGITS // max(len(other_KD), 1))
        other = other_KD.to(rows_ND.dtype)
        own_logits_N = (rows_ND.float() * own_ND).sum(1) + own_bias_N
        grad_rows_ND, grad_own_N = torch.empty_like(rows_ND), torch.empty_like(own_logits_N)
        grad_other_KD, grad_other_bias_K = torch.zeros_like(other_KD), torch.zeros_like(other_bias_K)
        total = torch.zeros((), dtype=torch.float32, device=rows_ND.device)
        for start in range(0, num_rows, block):
            cut = slice(start, start + block)
            logits_nK = torch.mm(rows_ND[cut], other.t()).float().add_(other_bias_K)
            logits_nK.masked_fill_(is_own_NK[cut], -torch.inf)
            own_n = own_logits_N[cut]
            normalizer_n = torch.logaddexp(torch.logsumexp(logits_nK, dim=1), own_n)
            total += (normalizer_n - own_n).sum()
            delta_nK = logits_nK.sub_(normalizer_n[:, None]).exp_().div_(num_rows)
            grad_own_N[cut] = ((own_n - normalizer_n).exp() - 1.0) / num_rows
            delta = delta_nK.to(rows_ND.dtype)
            grad_rows_ND[cut] = delta @ other + (grad_own_N[cut, None] * own_ND[cut]).to(rows_ND.dtype)
            grad_other_KD += delta.t() @ rows_ND[cut]
            grad_other_bias_K += delta_nK.sum(0)
        grad_own_ND = grad_own_N[:, None] * rows_ND
        ctx.save_for_backward(grad_rows_ND, grad_own_ND, grad_own_N, grad_other_KD, grad_other_bias_K)
        return total / num_rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(saved * grad.to(saved.dtype) for saved in ctx.saved_tensors), None
