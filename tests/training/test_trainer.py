"""A trainer does optimisation steps and continues from saved parts."""

import pytest
import torch

from carousel_training.batches import Chances, LanePlan, TrainingBatches
from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import State
from carousel_training.errors import CheckpointError
from carousel_training.model import ModelConfig, Objective, RecurrentLM
from carousel_training.precision import Compute, can_run_bfloat16
from carousel_training.settings import OptimizerSettings
from carousel_training.trainer import Trainer

FRESH = 0.25
needs_bfloat16 = pytest.mark.skipif(not can_run_bfloat16(), reason="this processor runs no LSTM in bfloat16")


def build(cell: str = "lstm", *, hidden_size: int = 6, uses_bfloat16: bool = False, clip_norm: float = 1.0) -> Trainer:
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(9, cell, 2, hidden_size, 6, tied=True, dropout=0.2))
    batches = TrainingBatches(torch.arange(200) * 7 % 9, 0, LanePlan(3, 5), Chances(0, FRESH))
    settings = OptimizerSettings(clip_norm=clip_norm, warmup_fraction=0.0, schedule="constant")
    return Trainer(model, batches, settings, Compute(torch.device("cpu"), uses_bfloat16=uses_bfloat16))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("uses_bfloat16", [False, pytest.param(True, marks=needs_bfloat16)])
def test_a_restored_trainer_goes_on_bit_for_bit(cell: str, uses_bfloat16: bool) -> None:
    """In both precisions, tensors and facts hold everything that the next steps depend on."""
    trainer = build(cell, uses_bfloat16=uses_bfloat16)
    for _ in range(20):
        trainer.advance(0.5)
    tensors, facts = {name: tensor.clone() for name, tensor in trainer.tensors().items()}, trainer.facts()
    for _ in range(20):
        trainer.advance(0.5)
    expected = trainer.tensors()
    twin = build(cell, uses_bfloat16=uses_bfloat16)
    twin.advance(0.1)
    twin.restore(tensors, facts)
    assert twin.step == 20
    for _ in range(20):
        twin.advance(0.5)
    assert twin.tensors().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in twin.tensors().items())


REGULARISED = {
    "locked_dropout": True,
    "input_dropout": 0.3,
    "output_dropout": 0.1,
    "embedding_dropout": 0.1,
    "weight_drop": 0.3,
    "activation_penalty": 2.0,
    "temporal_penalty": 1.0,
    "window": 3,
    "num_clocks": 2,
    "num_heads": 2,
}


def build_regularised(cell: str, block: str = "plain", **optimizer: object) -> Trainer:
    torch.manual_seed(0)
    ngrams = {"ngram_order": 1 if cell == "tdnn" else 3, "ngram_buckets": 20}
    options = {"dropout": 0.2, "block": block, **ngrams, **REGULARISED}
    model = RecurrentLM(ModelConfig(9, cell, 2, 6, 6, tied=True, **options))  # type: ignore[arg-type]
    batches = TrainingBatches(torch.arange(200) * 7 % 9, 0, LanePlan(3, 5), Chances(0, FRESH))
    settings = OptimizerSettings.model_validate({"warmup_fraction": 0.0, **optimizer})
    return Trainer(model, batches, settings, Compute(torch.device("cpu"), uses_bfloat16=False))


def assert_resumes_exactly(trainer: Trainer, twin: Trainer) -> None:
    """Asserts that eight steps in a restored twin equal eight more steps of the trainer."""
    for step in range(8):
        trainer.advance(step / 16)
    trainer.average.observe(2.0)
    tensors, facts = {name: tensor.clone() for name, tensor in trainer.tensors().items()}, trainer.facts()
    twin.advance(0.1)
    twin.restore(tensors, facts)
    for each in (trainer, twin):
        torch.manual_seed(step)  # what another history would leave
        for step in range(8, 16):
            each.advance(step / 16)
    expected = trainer.tensors()
    assert twin.tensors().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in twin.tensors().items())


@pytest.mark.parametrize("cell", list(CELLS))
def test_every_cell_resumes_exactly_with_all_regularisation_on(cell: str) -> None:
    """Saved parts cover masks, penalties, counters, windows and averaged weights."""
    assert_resumes_exactly(*(build_regularised(cell, averaging="tail", average_from=0.25) for _ in range(2)))


@pytest.mark.parametrize("cell", ["lstm", "clockwork", "minlstm", "mlstm"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_residual_blocks_resume_exactly(cell: str, kind: str) -> None:
    """Saved parts cover masks on branches and the counters of each block."""
    assert_resumes_exactly(*(build_regularised(cell, "residual", kind=kind) for _ in range(2)))


@pytest.mark.parametrize("cell", list(CELLS))
def test_orthogonal_steps_resume_exactly(cell: str) -> None:
    """Saved parts cover the momenta of both optimisers, for every cell."""
    assert_resumes_exactly(*(build_regularised(cell, kind="muon") for _ in range(2)))


def test_sgd_resumes_exactly_and_begins_its_average_later() -> None:
    """The plain optimiser has no state, and the saved non-monotone rule has the validations."""
    pair = [
        build_regularised("lstm", kind="sgd", learning_rate=0.5, averaging="non-monotone", average_after_worse=0)
        for _ in range(2)
    ]
    assert_resumes_exactly(pair[0], pair[1])
    for trainer in pair:
        torch.manual_seed(1)
        trainer.average.observe(3.0)
        trainer.advance(0.9)
    assert pair[1].average.num_steps == 1
    assert all(torch.equal(a, b) for a, b in zip(pair[0].tensors().values(), pair[1].tensors().values(), strict=True))


@pytest.mark.parametrize("cell", list(CELLS))
def test_every_cell_learns_at_its_own_rate(cell: str) -> None:
    """With its default rate, a cell halves its loss on a repeating sequence."""
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(9, cell, 1, 32, 16, tied=True, dropout=0.0))
    batches = TrainingBatches(torch.arange(200) * 7 % 9, 0, LanePlan(4, 8), Chances(0, FRESH))
    settings = OptimizerSettings(schedule="constant", warmup_fraction=0.0)
    trainer = Trainer(model, batches, settings, Compute(torch.device("cpu"), uses_bfloat16=False))
    trainer.advance(0.5)
    before, _ = trainer.pop_means()
    for _ in range(250):
        trainer.advance(0.5)
    trainer.pop_means()
    trainer.advance(0.5)
    assert trainer.pop_means()[0] < before / 2


def test_the_state_is_carried_but_where_a_lane_begins_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lane starts from the state after its previous segment, or from the initial state if the batches say so."""
    trainer = build()
    given: list[torch.Tensor] = []
    left: list[torch.Tensor] = []
    objective = trainer.model.objective

    def watch(inputs_BT: torch.Tensor, targets_BT: torch.Tensor, state: State, negatives: None) -> Objective:
        found = objective(inputs_BT, targets_BT, state, negatives)
        given.append(state[0].clone())
        left.append(found.state[0].detach().clone())
        return found

    monkeypatch.setattr(trainer.model, "objective", watch)
    num_segments = trainer.batches.segments_per_epoch
    for _ in range(2 * num_segments + 1):
        trainer.advance(0.5)
    num_fresh = 0
    for step in range(1, len(given)):
        is_fresh_B = trainer.batches.segment_at(step).is_fresh_B
        assert torch.equal(given[step][~is_fresh_B], left[step - 1][~is_fresh_B])
        assert given[step][~is_fresh_B].any(1).all()
        assert not given[step][is_fresh_B].any()
        num_fresh += int(is_fresh_B.sum())
    assert 2 * 3 < num_fresh < 3 * len(given) / 2


def test_masks_follow_the_seed_and_the_step_alone() -> None:
    """Equal weights give equal steps for any history of the generator, and other steps for another seed."""
    losses = []
    for seed, history in ((1, 5), (1, 6), (2, 5)):
        trainer = build()
        ids_N = torch.zeros(200, dtype=torch.int64)  # the order of the text does not matter
        trainer.batches = TrainingBatches(ids_N, 0, LanePlan(3, 5), Chances(seed, 0.0))
        torch.manual_seed(history)
        trainer.advance(0.5)
        losses.append(trainer.pop_means()[0])
    assert losses[0] == losses[1] != losses[2]


def test_gradients_are_clipped_together() -> None:
    """The reported norm is the one before clipping, and the optimiser gets a gradient with the bound's norm."""
    trainer = build(clip_norm=0.01)
    trainer.advance(0.5)
    _, norm_before = trainer.pop_means()
    gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    assert norm_before > 0.01
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_the_window_is_a_mean_and_starts_anew() -> None:
    """Reading the means resets them."""
    trainer = build()
    trainer.advance(0.5)
    first, _ = trainer.pop_means()
    trainer.advance(0.5)
    second, _ = trainer.pop_means()
    both = build()
    both.advance(0.5)
    both.advance(0.5)
    assert both.pop_means()[0] == pytest.approx((first + second) / 2)
    assert both.pop_means() == (0.0, 0.0)


def test_parts_of_another_model_are_refused() -> None:
    """A checkpoint of other sizes is a CheckpointError."""
    trainer = build()
    trainer.advance(0.5)
    with pytest.raises(CheckpointError, match="does not fit the model of this run"):
        build(hidden_size=8).restore(trainer.tensors(), trainer.facts())
