"""Cuts a token sequence into contiguous lanes and the lanes into segments, for truncated back-propagation.

Lane b of a segment continues lane b of the one before it, so a recurrent state can be carried. The position in the
corpus is a function of the step alone: nothing here needs saving to resume. Legend: N tokens, B lanes, T segment.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from carousel_training.errors import CorpusError


class Segment(NamedTuple):
    """T tokens of B lanes and, for each, the token that follows. `is_first`: start from the initial state."""

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    is_first: bool


@dataclass(frozen=True, slots=True)
class LanePlan:
    """The shape of the batches."""

    num_lanes: int
    segment: int
    seed: int


class TrainingBatches:
    """Endless segments over `ids_N`. Each epoch after the first starts at another place in the text, drawn from the
    seed, so that cuts fall differently; the text is taken as a ring. Raises CorpusError when one segment is too much.
    """

    def __init__(self, ids_N: torch.Tensor, plan: LanePlan) -> None:
        self._ids_N = ids_N
        self._plan = plan
        self._epoch = -1
        self._tokens_NB = ids_N
        self.segments_per_epoch = (len(ids_N) - 1) // plan.num_lanes // plan.segment
        if self.segments_per_epoch < 1:
            raise CorpusError(
                f"the training text is too short: it has {len(ids_N)} tokens, and one segment of {plan.segment} tokens "
                f"in {plan.num_lanes} lanes needs {plan.num_lanes * plan.segment + 1}"
            )

    def __repr__(self) -> str:
        return f"TrainingBatches({len(self._ids_N)} tokens, {self.segments_per_epoch} segments an epoch)"

    @property
    def tokens_per_step(self) -> int:
        return self._plan.num_lanes * self._plan.segment

    def count_tokens(self, vocabulary_size: int) -> torch.Tensor:
        """counts_V: how often each token occurs in the text."""
        return torch.bincount(self._ids_N, minlength=vocabulary_size)

    def segment_at(self, step: int) -> Segment:
        """The segment of optimisation step `step`, counted from 0."""
        epoch, index = divmod(step, self.segments_per_epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        start = index * self._plan.segment
        window_SB = self._tokens_NB[start : start + self._plan.segment + 1]
        return Segment(window_SB[:-1].t(), window_SB[1:].t(), index == 0)

    def _begin(self, epoch: int) -> None:
        """Lay the epoch's lanes out time-major, each with the one token more that is its last target."""
        ids_N = self._ids_N
        if epoch > 0:
            offset = np.random.default_rng([self._plan.seed, epoch]).integers(len(ids_N))
            ids_N = torch.roll(ids_N, -int(offset))
        length = self.segments_per_epoch * self._plan.segment
        starts_B = torch.arange(self._plan.num_lanes, device=ids_N.device) * length
        self._tokens_NB = ids_N[torch.arange(length + 1, device=ids_N.device)[:, None] + starts_B[None, :]]
        self._epoch = epoch


class EvaluationBatches:
    """A whole text once, every token a target exactly once: lane 0 begins after `start_id`, every other lane after the
    last token of the lane before it. Lanes that are a token short have the target -100, which losses ignore.
    """

    IGNORED = -100

    def __init__(self, ids_N: torch.Tensor, start_id: int, plan: LanePlan) -> None:
        num_lanes = min(plan.num_lanes, len(ids_N))
        length = -(-len(ids_N) // num_lanes)
        padding = num_lanes * length - len(ids_N)
        inputs_N = torch.cat([ids_N.new_tensor([start_id]), ids_N[:-1], ids_N.new_zeros(padding)])
        targets_N = torch.cat([ids_N, ids_N.new_full((padding,), self.IGNORED)])
        self._inputs_BN = inputs_N.view(num_lanes, length)
        self._targets_BN = targets_N.view(num_lanes, length)
        self._segment = plan.segment
        self.num_targets = len(ids_N)

    def __len__(self) -> int:
        return -(-self._inputs_BN.shape[1] // self._segment)

    def __getitem__(self, index: int) -> Segment:
        if not 0 <= index < len(self):
            raise IndexError(index)
        cut = slice(index * self._segment, (index + 1) * self._segment)
        return Segment(self._inputs_BN[:, cut], self._targets_BN[:, cut], index == 0)
