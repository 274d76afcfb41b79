"""A session that begins in the middle of a text must soon do as well as one that has read all of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from carousel.bundle.layout import Array, Rows, StateBatch, StateLayout, StateTensor
from carousel.bundle.manifest import Bundle
from carousel.engine.model import Candidates, Likeliest, OnnxModel, TargetScores
from carousel_export import starts
from carousel_export.bundle_writer import write_files
from carousel_export.held_out import HeldOutText
from carousel_export.starts import check_starts
from carousel_training.checkpoint import TrainedModel

START, TRAP = 1, 0


class LockingModel:
    """Predicts every token at 2 nats, unless the first token after the start is the trap: then at 16, for ever."""

    layout = StateLayout((StateTensor("h", (1,), "float32"),))
    vocabulary_size = 9

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Rows, StateBatch]:
        h_B, hidden = np.asarray(state[0])[:, 0], []
        for ids_B in ids_BT.T:
            first_B = np.where(ids_B == TRAP, -1.0, 1.0)
            h_B = np.where(h_B == 0.0, 0.5, np.where(h_B == 0.5, first_B, h_B)).astype(np.float32)
            hidden.append(h_B)
        return np.stack(hidden, axis=1)[..., None], (h_B[:, None],)

    def score(self, hidden_NH: Rows, targets_N: Array) -> TargetScores:
        log_probs_N = np.where(np.asarray(hidden_NH)[:, 0] < 0.0, -16.0, -2.0)
        return TargetScores(log_probs_N, np.ones(len(targets_N), np.int64))

    def logits(self, hidden_NH: Rows) -> Array:
        raise NotImplementedError

    def probabilities(self, hidden_NH: Rows, temperatures_N: Array) -> Array:
        raise NotImplementedError

    def likeliest(self, hidden_NH: Rows) -> Likeliest:
        raise NotImplementedError

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        raise NotImplementedError


def costs(ids_N: Array) -> list[float]:
    """Returns the worst costs of a fresh start and of carried state."""
    return [check.value for check in check_starts(LockingModel(), HeldOutText("text", ids_N, START), 1.0)]


def test_a_state_that_is_never_left_is_found() -> None:
    """One start among all that falls into the trap is enough; a text without traps costs nothing."""
    ids_N = np.full(3000, 5)
    assert costs(ids_N) == [0.0, 0.0]
    places_S = np.linspace(0, 3000 - starts.WARM_UP - starts.JUDGED, starts.NUM_STARTS).astype(int)
    ids_N[places_S[77]] = TRAP
    assert costs(ids_N) == [14.0, 0.0]
    ids_N[places_S[77]] = 5
    ids_N[0] = TRAP
    assert costs(ids_N) == [0.0, 14.0]  # except for the start that also begins there
    found = check_starts(LockingModel(), HeldOutText("text", ids_N, START), 1.0)
    assert [check.holds for check in found] == [True, False]


def test_a_text_too_short_to_begin_in_is_not_judged() -> None:
    """A single start needs its warm-up and the judged tokens."""
    shortest = starts.WARM_UP + starts.JUDGED
    assert costs(np.full(shortest - 1, 5)) == []
    assert costs(np.full(shortest, 5)) == [0.0, 0.0]


@pytest.mark.parametrize("num_tokens", [200, 900])
def test_the_costs_are_those_of_the_network(trained: TrainedModel, tmp_path: Path, num_tokens: int) -> None:
    """The start token comes first and both sides read the same tokens, however they are cut into calls."""
    write_files(trained, tmp_path, "model")
    ids_N = np.random.default_rng(0).integers(0, trained.tokenizer.size, num_tokens)
    start_id = trained.tokenizer.start_id
    last = num_tokens - starts.WARM_UP - starts.JUDGED
    carried_N, found = losses(trained, np.concatenate([[start_id], ids_N])), []
    for start in np.unique(np.linspace(0, last, starts.NUM_STARTS).astype(int)):
        stop = start + starts.WARM_UP + starts.JUDGED
        fresh_N = losses(trained, np.concatenate([[start_id], ids_N[start:stop]]))
        found.append((fresh_N[starts.WARM_UP :] - carried_N[start + starts.WARM_UP : stop]).mean())
    served = OnnxModel(Bundle.load(tmp_path))
    checks = check_starts(served, HeldOutText("noise", ids_N, start_id), 1.0)
    assert [check.value for check in checks] == pytest.approx([max(found), -min(found)], abs=1e-4)


def losses(trained: TrainedModel, ids_N: Array) -> Array:
    """Returns the losses of every token except the first."""
    with torch.no_grad():
        logits_1TV, _ = trained.model(torch.from_numpy(ids_N[None, :-1]), trained.model.initial_state(1))
        return functional.cross_entropy(logits_1TV[0], torch.from_numpy(ids_N[1:]), reduction="none").numpy()
