"""Cuts a token sequence into contiguous lanes and the lanes into segments, for truncated back-propagation.

Lane b of a segment continues lane b of the segment before, so a recurrent state can be carried. By chance a lane begins
afresh, as a session of the server does: with the initial state, then the start token. Everything is a function of seed
and step, so resuming needs no saved state. Legend: N tokens, B lanes, T segment, W warm-up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from carousel_training.errors import CorpusError

WARM_UP = 128  # tokens; the effect of a network's own start has faded by then
OFFSET, FRESH = 0, 1  # streams of the seed


class Segment(NamedTuple):
    """T tokens of B lanes, and the token that follows each.

    The lanes of `is_fresh_B` start from the initial state, the others from their state after the segment before.
    """

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    is_fresh_B: torch.Tensor


@dataclass(frozen=True, slots=True)
class LanePlan:
    """Gives the shape of the batches."""

    num_lanes: int
    segment: int


@dataclass(frozen=True, slots=True)
class Chances:
    """The random choices: where an epoch begins in the text, and which lanes of a segment begin afresh (each with the
    chance `fresh`).
    """

    seed: int
    fresh: float


class TrainingBatches:
    """Endless segments over `ids_N`. Raises CorpusError for a text shorter than one segment.

    Each epoch starts at its own place in the text, drawn from the seed, so that the cuts differ; the text is a ring. A
    lane that begins afresh reads `start_id` in place of the token before its first target. Without such lanes a network
    learns to continue and never to begin: started in the middle of a text, it enters states that it never leaves.
    """

    def __init__(self, ids_N: torch.Tensor, start_id: int, plan: LanePlan, chances: Chances) -> None:
        self._ids_N = ids_N
        self._start_id = start_id
        self._plan = plan
        self._chances = chances
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
    def seed(self) -> int:
        return self._chances.seed

    @property
    def tokens_per_step(self) -> int:
        return self._plan.num_lanes * self._plan.segment

    def count_tokens(self, vocabulary_size: int) -> torch.Tensor:
        """Returns counts_V, the number of occurrences of each token in the text."""
        return torch.bincount(self._ids_N, minlength=vocabulary_size)

    def segment_at(self, step: int) -> Segment:
        """Returns the segment of optimisation step `step`, counted from 0."""
        epoch, index = divmod(step, self.segments_per_epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        start = index * self._plan.segment
        window_SB = self._tokens_NB[start : start + self._plan.segment + 1]
        is_fresh_B = self._draw_fresh(step, is_first=index == 0)
        inputs_TB = window_SB[:-1].clone()
        inputs_TB[0].masked_fill_(is_fresh_B, self._start_id)
        return Segment(inputs_TB.t(), window_SB[1:].t(), is_fresh_B)

    def _draw_fresh(self, step: int, *, is_first: bool) -> torch.Tensor:
        """Chooses all lanes at the beginning of an epoch, and otherwise each lane by chance."""
        drawn_B = np.random.default_rng([self._chances.seed, step, FRESH]).random(self._plan.num_lanes)
        return torch.from_numpy((drawn_B < self._chances.fresh) | is_first).to(self._ids_N.device)

    def _begin(self, epoch: int) -> None:
        """Lays the epoch's lanes out time-major, each with one more token, its last target."""
        offset = np.random.default_rng([self._chances.seed, epoch, OFFSET]).integers(len(self._ids_N))
        ids_N = torch.roll(self._ids_N, -int(offset))
        length = self.segments_per_epoch * self._plan.segment
        starts_B = torch.arange(self._plan.num_lanes, device=ids_N.device) * length
        self._tokens_NB = ids_N[torch.arange(length + 1, device=ids_N.device)[:, None] + starts_B[None, :]]
        self._epoch = epoch


class EvaluationBatches:
    """A whole text once, in which every token is a target exactly once.

    Every lane begins as a session does, after `start_id`; all but the first then read up to `WARM_UP` tokens before
    their part of the text. These tokens and the padding of short lanes have the target -100, which losses ignore.
    """

    IGNORED = -100

    def __init__(self, ids_N: torch.Tensor, start_id: int, plan: LanePlan) -> None:
        length = -(-len(ids_N) // min(plan.num_lanes, len(ids_N)))
        starts = range(0, len(ids_N), length)
        read = [ids_N[max(start - WARM_UP, 0) : start + length] for start in starts]
        num_steps = max(map(len, read))
        self._inputs_BN = ids_N.new_zeros(len(starts), num_steps)
        self._targets_BN = ids_N.new_full((len(starts), num_steps), self.IGNORED)
        for lane, (start, read_N) in enumerate(zip(starts, read, strict=True)):
            warm_up = min(WARM_UP, start)
            self._inputs_BN[lane, 0] = start_id
            self._inputs_BN[lane, 1 : len(read_N)] = read_N[:-1]
            self._targets_BN[lane, warm_up : len(read_N)] = read_N[warm_up:]
        self._segment = plan.segment
        self.num_targets = len(ids_N)

    @property
    def num_lanes(self) -> int:
        return len(self._inputs_BN)

    def __len__(self) -> int:
        return -(-self._inputs_BN.shape[1] // self._segment)

    def __getitem__(self, index: int) -> Segment:
        if not 0 <= index < len(self):
            raise IndexError(index)
        cut = slice(index * self._segment, (index + 1) * self._segment)
        is_fresh_B = torch.full((self.num_lanes,), index == 0, device=self._inputs_BN.device)
        return Segment(self._inputs_BN[:, cut], self._targets_BN[:, cut], is_fresh_B)
