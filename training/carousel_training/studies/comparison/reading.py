"""Reads a held-out part with a model: evenly spaced stretches, one lane each, that begin as a server's sessions do.

The first WARM_UP tokens are read and not counted. Legend: B lanes, T tokens of a piece, L of a stretch, S of a stretch
and its warm-up, N blocks of all lanes.
"""

import torch
from torch.nn import functional

from carousel_training.batches import WARM_UP
from carousel_training.errors import CorpusError
from carousel_training.model import RecurrentLM
from carousel_training.precision import Compute
from carousel_training.studies.comparison.jobs import Reading, ReadingPlan

PIECE = 128  # tokens at a time: the state is carried, so that it changes no loss


class Stretches:
    """Covers at most `num_tokens` of a part. Raises CorpusError for a part too short for its lanes."""

    def __init__(self, ids_N: torch.Tensor, start_id: int, plan: ReadingPlan, num_tokens: int) -> None:
        distance = (len(ids_N) - WARM_UP) // plan.num_lanes
        length = min(num_tokens // plan.num_lanes, distance)
        if length < 1:
            raise CorpusError(f"a held-out part of {len(ids_N)} tokens is too short for {plan.num_lanes} lanes")
        starts = [lane * distance for lane in range(plan.num_lanes)]
        self._targets_BS = torch.stack([ids_N[start : start + WARM_UP + length] for start in starts])
        self._inputs_BS = torch.cat([ids_N.new_full((plan.num_lanes, 1), start_id), self._targets_BS[:, :-1]], dim=1)
        self._block = plan.block
        self.num_tokens = plan.num_lanes * length

    @torch.no_grad()
    def read(self, model: RecurrentLM, compute: Compute) -> Reading:
        """Reads without dropout and leaves the model as it was."""
        was_training = model.training
        model.eval()
        state = model.initial_state(len(self._inputs_BS))
        pieces: list[torch.Tensor] = []
        cuts = zip(torch.split(self._inputs_BS, PIECE, 1), torch.split(self._targets_BS, PIECE, 1), strict=True)
        for inputs_BT, targets_BT in cuts:
            with compute.autocast():
                logits_BTV, state = model(inputs_BT, state)
            pieces.append(functional.cross_entropy(logits_BTV.float().transpose(1, 2), targets_BT, reduction="none"))
        model.train(was_training)
        nats_BL = torch.cat(pieces, dim=1)[:, WARM_UP:].double()
        sums_N = torch.stack([block.sum(dim=1) for block in torch.split(nats_BL, self._block, 1)], dim=1).flatten()
        return Reading(float(nats_BL.mean()), _rounded(nats_BL.mean(dim=1)), _rounded(sums_N))


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    """Keeps six digits; two readings differ by far more."""
    return tuple(float(f"{value:.6g}") for value in values.tolist())
