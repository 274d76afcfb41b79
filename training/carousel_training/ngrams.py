"""Hashed n-grams of the last tokens: rows of a table that are added to a token's embedding.

A table knows which tokens stand side by side, so that the recurrent layer can spend its width on what lies further back
(Mikolov et al. 2011 gave such features to the output layer). Legend: T steps, B lanes, S = T + order - 1 tokens,
E embedding width, O = order - 1 sizes of n-grams, from 2 to the order.
"""

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateTensor

RECENT = "recent_ids"
FACTOR, PRIME = 1_000_003, 2**31 - 1  # their product fits into int64


class NgramEmbedding(nn.Module):
    """A table of `num_buckets` rows for each size of n-gram. N-grams that hash to the same bucket share a row.

    The rows begin at zero, so that n-grams that training never saw add next to nothing. The state is the last
    order - 1 tokens, -1 where there is none yet.
    """

    def __init__(self, order: int, num_buckets: int, embedding_size: int) -> None:
        super().__init__()
        self.order = order
        self.num_buckets = num_buckets
        self.weight = nn.Parameter(torch.zeros((order - 1) * num_buckets, embedding_size))

    @property
    def num_context(self) -> int:
        """The number of earlier tokens that a step sees."""
        return self.order - 1

    @property
    def state_tensor(self) -> StateTensor:
        return StateTensor(RECENT, (self.num_context,), "int64", -1.0)

    def forward(self, ids_TB: torch.Tensor, recent_BO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns x_TBE, the sum of the rows of every step's n-grams, and the recent tokens after the last step."""
        ids_SB = torch.cat([recent_BO.t(), ids_TB])
        rows_TBO = self.find_rows(ids_SB)
        x_NE = functional.embedding_bag(rows_TBO.flatten(0, 1), self.weight, mode="sum")
        return x_NE.view(*ids_TB.shape, -1), ids_SB[len(ids_TB) :].t()

    def find_rows(self, ids_SB: torch.Tensor) -> torch.Tensor:
        """Returns rows_TBO of the table, from bigrams up. An n-gram's hash continues that of its last n - 1 tokens."""
        num_steps = len(ids_SB) - self.num_context
        hash_TB, rows = ids_SB[self.num_context :] + 1, []
        for distance in range(1, self.order):
            start = self.num_context - distance
            hash_TB = (hash_TB * FACTOR + ids_SB[start : start + num_steps] + 1) % PRIME
            rows.append(hash_TB % self.num_buckets + (distance - 1) * self.num_buckets)
        return torch.stack(rows, dim=2)
