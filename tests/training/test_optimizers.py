"""Every parameter has exactly one optimiser, and only the hidden matrices take orthogonal steps."""

import pytest
import torch

from carousel_training.cells.registry import CELLS
from carousel_training.errors import SettingsError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.optimizers import Optimizers, hidden_matrices
from carousel_training.settings import OptimizerSettings, Settings


def build(cell: str = "lstm", num_layers: int = 1) -> RecurrentLM:
    torch.manual_seed(0)
    return RecurrentLM(ModelConfig(9, cell, num_layers, 8, 6, tied=False, dropout=0.0))


def step_once(model: RecurrentLM, settings: OptimizerSettings, factor: float = 1.0) -> dict[str, torch.Tensor]:
    """By how much each parameter moved for a gradient that is mostly one direction."""
    optimizers = Optimizers(model, settings)
    optimizers.set_factor(factor)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) + 0.1 * torch.randn_like(parameter)
    optimizers.step()
    return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}


def test_biases_do_not_decay() -> None:
    """Matrices are in the group with weight decay, vectors in the one without; none is lost."""
    model = build()
    (adamw,) = Optimizers(model, OptimizerSettings(weight_decay=0.1)).each
    decaying, free = adamw.param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() == 2 for parameter in decaying["params"])
    assert all(parameter.dim() == 1 for parameter in free["params"])
    assert len(decaying["params"]) + len(free["params"]) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("cell", list(CELLS))
def test_each_parameter_has_one_optimizer(cell: str) -> None:
    """With orthogonal steps, the two optimisers share no parameter and together have all."""
    model = build(cell, num_layers=2)
    optimizers = Optimizers(model, OptimizerSettings(kind="muon"))
    held = [id(p) for each in optimizers.each for group in each.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    orthogonal = set(map(id, hidden_matrices(model)))
    assert orthogonal.isdisjoint(map(id, (model.embedding.weight, model.output_weight)))
    assert bool(orthogonal) == (len(optimizers.each) == 2)


def test_the_recurrent_matrix_takes_orthogonal_steps() -> None:
    """Its step, of 4H x H, stretches no direction much more than another; AdamW's step of the same gradient does."""
    settings = {"learning_rate": 0.1, "matrix_learning_rate": 0.1}
    moved = step_once(build(), OptimizerSettings.model_validate({"kind": "muon", **settings}))
    plain = step_once(build(), OptimizerSettings.model_validate(settings))
    name = next(name for name in moved if "weight_hh" in name)
    stretches, plain_stretches = (torch.linalg.svdvals(step[name]) for step in (moved, plain))
    assert stretches.max() / stretches.min() < 2.5
    assert plain_stretches.max() / plain_stretches.min() > 10
    assert all(torch.equal(moved[other], plain[other]) for other in moved if other != name)


def test_the_rates_move_together() -> None:
    """At a tenth of the peaks every parameter moves a tenth as far."""
    settings = OptimizerSettings(kind="muon", weight_decay=0.0)
    whole, tenth = step_once(build(), settings), step_once(build(), settings, factor=0.1)
    for name, step in whole.items():
        torch.testing.assert_close(tenth[name], step / 10, rtol=1e-3, atol=1e-7)


def test_an_unknown_kind_is_refused() -> None:
    """The settings refuse an unknown kind by name."""
    with pytest.raises(SettingsError, match=r"optimizer\.kind"):
        Settings.parse({"optimizer": {"kind": "muons"}})
