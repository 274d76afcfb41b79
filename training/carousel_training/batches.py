"""Cuts a token sequence into contiguous lanes and the lanes into segments, for truncated back-propagation.

Lane b of a segment continues lane b of the one before it, so a recurrent state can be carried. Now and then a lane
begins afresh, as a session of the server does: the initial state, then the start token. All of it is a function of seed
and step: nothing here needs saving to resume. Legend: N tokens, B lanes, T segment, W warm-up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from carousel_training.errors import CorpusError

WARM_UP = 128  # tokens; what a network makes of its own start has faded by then
OFFSET, FRESH = 0, 1  # streams of the seed


class Segment(NamedTuple):
    """T tokens of B lanes and, for each, the token that follows. The lanes of `is_fresh_B` start from the initial
    state, the others from where the segment before left them."""

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    is_fresh_B: torch.Tensor


@dataclass(frozen=True, slots=True)
class LanePlan:
    """The shape of the batches."""

    num_lanes: int
    segment: int


@dataclass(frozen=True, slots=True)
class Chances:
    """What is drawn: where an epoch begins in the text, and, with the chance `fresh` for each lane of each segment,
    which lanes begin afresh."""

    seed: int
    fresh: float


class TrainingBatches:
    """Endless segments over `ids_N`. Each epoch starts at a place of its own in the text, drawn from the seed, so that
    cuts fall differently; the text is taken as a ring. Raises CorpusError when one segment is too much.

    A lane that begins afresh reads `start_id` in place of the token before its first target. Without such lanes a
    network learns to go on, and never to begin: some states it then never leaves when it begins in the midst of a text.
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
        """counts_V: how often each token occurs in the text."""
        return torch.bincount(self._ids_N, minlength=vocabulary_size)

    def segment_at(self, step: int) -> Segment:
        """The segment of optimisation step `step`, counted from 0."""
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
        """All lanes where an epoch begins; elsewhere each by chance."""
        drawn_B = np.random.default_rng([self._chances.seed, step, FRESH]).random(self._plan.num_lanes)
        return torch.from_numpy((drawn_B < self._chances.fresh) | is_first).to(self._ids_N.device)

    def _begin(self, epoch: int) -> None:
        """Lay the epoch's lanes out time-major, each with the one token more that is its last target."""
        offset = np.random.default_rng([self._chances.seed, epoch, OFFSET]).integers(len(self._ids_N))
        ids_N = torch.roll(self._ids_N, -int(offset))
        length = self.segments_per_epoch * self._plan.segment
        starts_B = torch.arange(self._plan.num_lanes, device=ids_N.device) * length
        self._tokens_NB = ids_N[torch.arange(length + 1, device=ids_N.device)[:, None] + starts_B[None, :]]
        self._epoch = epoch


class EvaluationBatches:
    """A whole text once, every token a target exactly once. Every lane begins as a session does, after `start_id`; all
    but the first then read up to `WARM_UP` tokens before their part of the text. These, and what fills short lanes up,
    have the target -100, which losses ignore.
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
