"""Lanes and segments: contiguous, complete, and with a state that can be carried."""

import pytest
import torch
from torch.nn import functional

from carousel_training.batches import EvaluationBatches, LanePlan, TrainingBatches
from carousel_training.cells.stack import State
from carousel_training.errors import CorpusError
from carousel_training.model import ModelConfig, RecurrentLM

PLAN = LanePlan(num_lanes=3, segment=5, seed=1)


def test_segments_continue_their_lanes() -> None:
    """Within an epoch each lane reads on where it stopped, and every target is the token after its input."""
    batches = TrainingBatches(torch.arange(100), PLAN)
    assert batches.segments_per_epoch == 6
    for step in range(batches.segments_per_epoch):
        inputs_BT, targets_BT, is_first = batches.segment_at(step)
        torch.testing.assert_close(targets_BT, inputs_BT + 1)
        torch.testing.assert_close(inputs_BT[:, 0], torch.tensor([0, 30, 60]) + 5 * step)
        assert is_first == (step == 0)


def test_epochs_start_at_other_places() -> None:
    """A new epoch begins a new state and cuts the ring elsewhere, by the seed alone."""
    batches = TrainingBatches(torch.arange(100), PLAN)
    starts = [int(batches.segment_at(6 * epoch).inputs_BT[0, 0]) for epoch in range(5)]
    assert len(set(starts)) > 1
    assert all(batches.segment_at(6 * epoch).is_first for epoch in range(5))
    again = TrainingBatches(torch.arange(100), PLAN)
    assert [int(again.segment_at(6 * epoch).inputs_BT[0, 0]) for epoch in reversed(range(5))] == starts[::-1]


def test_a_text_too_short_for_one_segment_is_refused() -> None:
    """The error says how much there is and how much is needed."""
    TrainingBatches(torch.arange(16), PLAN)
    with pytest.raises(CorpusError, match="it has 15 tokens, and one segment of 5 tokens in 3 lanes needs 16"):
        TrainingBatches(torch.arange(15), PLAN)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 44, 45, 46])
def test_evaluation_counts_every_token_once(num_tokens: int) -> None:
    """Whatever the length, the targets are the text, and each input is the token before its target."""
    batches = EvaluationBatches(torch.arange(num_tokens), 99, PLAN)
    inputs = torch.cat([segment.inputs_BT for segment in (batches[i] for i in range(len(batches)))], dim=1).flatten()
    targets = torch.cat([batches[i].targets_BT for i in range(len(batches))], dim=1).flatten()
    is_real = targets != EvaluationBatches.IGNORED
    torch.testing.assert_close(targets[is_real], torch.arange(num_tokens))
    torch.testing.assert_close(inputs[is_real], torch.cat([torch.tensor([99]), torch.arange(num_tokens - 1)]))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_segments_with_carried_state_equal_one_long_forward(cell: str) -> None:
    """The mean loss over the segments of an epoch is the loss of each lane read in one piece."""
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(20, cell, 2, 8, 6, tied=True, dropout=0.0)).eval()
    batches = TrainingBatches(torch.randint(20, (94,)), PLAN)
    state: State = model.initial_state(3)
    losses, inputs, targets = [], [], []
    for step in range(batches.segments_per_epoch):
        segment = batches.segment_at(step)
        loss, state = model.loss(segment.inputs_BT, segment.targets_BT, state)
        losses.append(loss)
        inputs.append(segment.inputs_BT)
        targets.append(segment.targets_BT)
    logits_BTV, whole_state = model(torch.cat(inputs, dim=1), model.initial_state(3))
    whole = functional.cross_entropy(logits_BTV.flatten(0, 1), torch.cat(targets, dim=1).flatten())
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    torch.testing.assert_close(state, whole_state)
