"""The mean of the weights starts by its rule, has the right value, and is in place for evaluations."""

import pytest
import torch
from torch import nn

from carousel_training.averaging import WeightAverage
from carousel_training.settings import OptimizerSettings


def build(**settings: object) -> tuple[nn.Linear, WeightAverage]:
    model = nn.Linear(2, 1)
    return model, WeightAverage(model, OptimizerSettings.model_validate(settings))


def set_weights(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_without_averaging_nothing_is_kept() -> None:
    """The rule `none` never starts a mean, and the model keeps its own weights."""
    model, average = build()
    for nats in (1.0, 9.0, 9.0):
        average.update(0.99)
        average.observe(nats)
    set_weights(model, 3.0)
    with average.in_place():
        assert model.bias.item() == 3.0
    assert not average.is_begun
    assert average.tensors() == {}


def test_the_tail_is_the_mean_of_the_steps_from_a_share_on() -> None:
    """Steps before the share do not count, later steps count equally, and the model gets its own weights back."""
    model, average = build(averaging="tail", average_from=0.5)
    for step in range(10):
        set_weights(model, float(step))
        average.update(step / 10)
    with average.in_place():
        assert model.bias.item() == pytest.approx((5 + 6 + 7 + 8 + 9) / 5)
    assert model.bias.item() == 9.0


def test_the_models_own_weights_come_back_after_an_error() -> None:
    """After a failed evaluation the model has its own weights."""
    model, average = build(averaging="tail", average_from=0.0)
    for value in (1.0, 3.0):
        set_weights(model, value)
        average.update(0.5)
    with pytest.raises(KeyboardInterrupt), average.in_place():
        raise KeyboardInterrupt
    assert model.bias.item() == 3.0


@pytest.mark.parametrize(
    ("after_worse", "nats", "begins_at"),
    [(0, [3.0, 2.0, 2.5], 2), (2, [3.0, 2.0, 2.5, 2.4, 2.1], 4), (2, [3.0, 2.0, 1.9, 1.8, 1.7], None)],
)
def test_the_non_monotone_rule(after_worse: int, nats: list[float], begins_at: int | None) -> None:
    """The mean starts with the first validation that is worse than the best earlier one, not counting the last few."""
    _, average = build(averaging="non-monotone", average_after_worse=after_worse)
    begun = []
    for result in nats:
        average.observe(result)
        begun.append(average.is_begun)
    assert (begun.index(True) if True in begun else None) == begins_at


def test_a_restored_mean_goes_on() -> None:
    """A restored mean and its rule continue as if there were no interruption."""
    model, average = build(averaging="tail", average_from=0.0)
    twin_model, twin = build(averaging="tail", average_from=0.0)
    for value in (1.0, 2.0):
        set_weights(model, value)
        average.update(0.1)
    average.observe(4.0)
    twin.restore(average.tensors(), average.facts())
    for each_model, each in ((model, average), (twin_model, twin)):
        set_weights(each_model, 6.0)
        each.update(0.2)
        with each.in_place():
            assert each_model.bias.item() == pytest.approx(3.0)
    assert twin.facts() == average.facts()
