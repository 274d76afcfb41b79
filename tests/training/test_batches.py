"""Lanes and segments are contiguous and complete, and the state can be carried."""

import pytest
import torch
from torch.nn import functional

from carousel_training.batches import WARM_UP, Chances, EvaluationBatches, LanePlan, TrainingBatches
from carousel_training.cells.stack import State
from carousel_training.errors import CorpusError
from carousel_training.model import ModelConfig, RecurrentLM

PLAN = LanePlan(num_lanes=3, segment=5)
START = 999
ON, NEVER = Chances(seed=1, fresh=0.25), Chances(seed=1, fresh=0.0)


def test_segments_continue_their_lanes() -> None:
    """Within an epoch each lane reads on where it stopped, and every target is the token after its input; the text is a
    ring."""
    batches = TrainingBatches(torch.arange(100), START, PLAN, NEVER)
    assert batches.segments_per_epoch == 6
    first = batches.segment_at(0).targets_BT[:, 0]
    torch.testing.assert_close(first, (first[0] + torch.tensor([0, 30, 60])) % 100)
    for step in range(batches.segments_per_epoch):
        inputs_BT, targets_BT, is_fresh_B = batches.segment_at(step)
        torch.testing.assert_close(targets_BT, (first[:, None] + 5 * step + torch.arange(5)) % 100)
        torch.testing.assert_close(inputs_BT[:, 1:], targets_BT[:, :-1])
        assert is_fresh_B.tolist() == [step == 0] * 3
        expected_B = torch.full((3,), START) if step == 0 else (targets_BT[:, 0] - 1) % 100
        torch.testing.assert_close(inputs_BT[:, 0], expected_B)


def test_lanes_begin_afresh_by_chance_as_sessions_do() -> None:
    """About the set share of lanes starts afresh, each alone and with the start token. Nothing else changes."""
    carried, fresh = (TrainingBatches(torch.arange(2000), START, PLAN, chances) for chances in (NEVER, ON))
    flags_SB = torch.stack([fresh.segment_at(step).is_fresh_B for step in range(130)])
    assert 0.18 < flags_SB[1:].float().mean() < 0.32
    assert len({tuple(flags_B.tolist()) for flags_B in flags_SB}) == 8
    for step in range(1, 130):
        (inputs_BT, targets_BT, is_fresh_B), (plain_BT, plain_targets_BT, _) = (
            fresh.segment_at(step),
            carried.segment_at(step),
        )
        torch.testing.assert_close(targets_BT, plain_targets_BT)
        torch.testing.assert_close(inputs_BT[:, 1:], plain_BT[:, 1:])
        torch.testing.assert_close(inputs_BT[:, 0], torch.where(is_fresh_B, START, plain_BT[:, 0]))


def test_chance_follows_from_seed_and_step() -> None:
    """A step's segment does not depend on earlier reads, and another seed starts other lanes afresh."""

    def flags(seed: int, steps: list[int]) -> list[list[bool]]:
        batches = TrainingBatches(torch.arange(100), START, PLAN, Chances(seed, 0.25))
        return [batches.segment_at(step).is_fresh_B.tolist() for step in steps]

    steps = list(range(1, 24))
    assert flags(1, steps) == flags(1, steps[::-1])[::-1]
    assert flags(1, steps) != flags(2, steps)


def test_epochs_start_at_other_places() -> None:
    """Each epoch, also the first, starts with a new state and cuts the ring at a place that the seed gives."""
    batches = TrainingBatches(torch.arange(100), START, PLAN, ON)
    starts = [int(batches.segment_at(6 * epoch).targets_BT[0, 0]) for epoch in range(5)]
    assert len(set(starts)) > 1
    assert all(batches.segment_at(6 * epoch).is_fresh_B.all() for epoch in range(5))
    again = TrainingBatches(torch.arange(100), START, PLAN, ON)
    assert [int(again.segment_at(6 * epoch).targets_BT[0, 0]) for epoch in reversed(range(5))] == starts[::-1]
    others = [TrainingBatches(torch.arange(100), START, PLAN, Chances(seed, 0.0)) for seed in range(6)]
    assert len({int(other.segment_at(0).targets_BT[0, 0]) for other in others}) > 1


def test_a_text_too_short_for_one_segment_is_refused() -> None:
    """The error says how many tokens there are and how many are needed."""
    TrainingBatches(torch.arange(16), START, PLAN, ON)
    with pytest.raises(CorpusError, match="it has 15 tokens, and one segment of 5 tokens in 3 lanes needs 16"):
        TrainingBatches(torch.arange(15), START, PLAN, ON)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 44, 45, 46, 1000])
def test_evaluation_counts_every_token_once(num_tokens: int) -> None:
    """Whatever the length, the targets are the text; each lane begins with the start token, reads what stands before
    its part without counting it, and reads on in order."""
    batches = EvaluationBatches(torch.arange(num_tokens), START, PLAN)
    inputs_BN = torch.cat([batches[i].inputs_BT for i in range(len(batches))], dim=1)
    targets_BN = torch.cat([batches[i].targets_BT for i in range(len(batches))], dim=1)
    is_real_BN = targets_BN != EvaluationBatches.IGNORED
    torch.testing.assert_close(targets_BN[is_real_BN], torch.arange(num_tokens))
    assert batches.num_targets == num_tokens
    assert batches[0].is_fresh_B.all()
    assert len(batches) < 2 or not batches[1].is_fresh_B.any()
    length = -(-num_tokens // 3)
    for lane, (inputs_N, targets_N, is_real_N) in enumerate(zip(inputs_BN, targets_BN, is_real_BN, strict=True)):
        first, last = is_real_N.nonzero()[[0, -1], 0].tolist()
        assert first == min(WARM_UP, lane * length)
        read_N = torch.arange(lane * length - first, int(targets_N[last]))
        torch.testing.assert_close(inputs_N[: last + 1], torch.cat([torch.tensor([START]), read_N]))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_segments_with_carried_state_equal_one_long_forward(cell: str) -> None:
    """The mean loss over the segments of an epoch is the loss of each lane read in one piece."""
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(20, cell, 2, 8, 6, tied=True, dropout=0.0)).eval()
    batches = TrainingBatches(torch.randint(20, (94,)), 7, PLAN, NEVER)
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
