"""The sampled loss agrees with torch's cross-entropy, and words are drawn with the right probabilities."""

import pytest
import torch
from torch.nn import functional

from carousel_training import sampled_softmax
from carousel_training.sampled_softmax import Negatives, NegativeSampler, inclusion_chances, sampled_loss

COUNTS_V = torch.tensor([5000, 1, 300, 40, 2, 0, 900, 7, 3, 60])


def test_chances_grow_with_counts_and_add_up() -> None:
    """The probabilities sum to the wanted number, at most 1 each. Only the most frequent words are certain."""
    chances = inclusion_chances(COUNTS_V, 5)
    torch.testing.assert_close(chances.sum(), torch.tensor(5.0))
    assert chances.max() <= 1.0
    assert chances[0] == chances[6] == 1.0
    assert 0.0 < chances[1] == chances[5] < chances[4] < chances[8] < chances[7] < 1.0


def test_below_the_cut_chances_follow_the_power_of_the_counts() -> None:
    """Two words that are not certain are drawn in the ratio of their flattened counts."""
    chances = inclusion_chances(COUNTS_V, 4)
    expected = (7 / 3) ** sampled_softmax.FLATTENING
    torch.testing.assert_close(chances[7] / chances[8], torch.tensor(expected))


@pytest.mark.parametrize("num_negatives", [10, 25])
def test_as_many_as_there_are_means_all(num_negatives: int) -> None:
    """A draw of the whole vocabulary has every word, with weight 1."""
    negatives = NegativeSampler(COUNTS_V, num_negatives).draw()
    assert negatives.ids_K.tolist() == list(range(10))
    assert negatives.log_weights_K.tolist() == [0.0] * 10


def test_words_come_as_often_as_they_should() -> None:
    """A draw has exactly the wanted number of different words, each with its probability."""
    sampler, chances = NegativeSampler(COUNTS_V, 5), inclusion_chances(COUNTS_V, 5)
    torch.manual_seed(2)
    found = torch.zeros(10)
    for _ in range(2000):
        ids = sampler.draw().ids_K
        assert len(torch.unique(ids)) == len(ids) == 5
        found[ids] += 1.0
    error = (chances * (1.0 - chances) / 2000).sqrt()
    assert ((found / 2000 - chances).abs() <= 4.0 * error).all()


def test_draws_are_the_generators() -> None:
    """Equal generator states give equal words and the next draw gives others, which exact resuming needs."""
    sampler = NegativeSampler(torch.ones(500), 100)
    torch.manual_seed(3)
    first, second = sampler.draw(), sampler.draw()
    torch.manual_seed(3)
    again = sampler.draw()
    assert torch.equal(first.ids_K, again.ids_K)
    assert not torch.equal(first.ids_K, second.ids_K)


@pytest.mark.parametrize("num_rows", [1, 4, 11])
def test_with_all_words_it_is_the_cross_entropy(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients equal torch's when every word is a negative, for any number of rows."""
    monkeypatch.setattr(sampled_softmax, "MIN_BLOCK_ROWS", 4)
    monkeypatch.setattr(sampled_softmax, "BLOCK_LOGITS", 1)
    rows, weight, bias, targets = _problem(num_rows)
    found = sampled_loss(rows, weight, bias, targets, Negatives(torch.arange(9), torch.zeros(9)))
    expected = functional.cross_entropy(functional.linear(rows, weight, bias), targets)
    torch.testing.assert_close(found, expected)
    leaves = (rows, weight, bias)
    torch.testing.assert_close(torch.autograd.grad(found * 3.0, leaves), torch.autograd.grad(expected * 3.0, leaves))


def test_gradients_are_those_of_the_formula() -> None:
    """With some words, loss and gradients equal those of the estimate in plain torch."""
    rows, weight, bias, targets = _problem(6)
    negatives = Negatives(torch.tensor([0, 3, 8]), torch.tensor([0.0, 0.7, 1.9]))
    found = sampled_loss(rows, weight, bias, targets, negatives)
    logits = functional.linear(rows, weight, bias)
    own = logits.gather(1, targets[:, None])
    other = (logits[:, negatives.ids_K] + negatives.log_weights_K).masked_fill(
        targets[:, None] == negatives.ids_K, -torch.inf
    )
    expected = (torch.logsumexp(torch.cat([own, other], dim=1), dim=1) - own[:, 0]).mean()
    torch.testing.assert_close(found, expected)
    leaves = (rows, weight, bias)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))


def test_the_normaliser_is_estimated_without_bias() -> None:
    """Over many draws, exp(loss) of a row averages to the inverse of the probability that the full softmax gives."""
    torch.manual_seed(1)
    rows, weight, bias = torch.randn(1, 4), torch.randn(10, 4), torch.randn(10)
    target = torch.tensor([2])
    sampler = NegativeSampler(COUNTS_V, 6)
    found = torch.stack([sampled_loss(rows, weight, bias, target, sampler.draw()).exp() for _ in range(4000)])
    expected = functional.cross_entropy(functional.linear(rows, weight, bias), target).exp()
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - expected) < 4.0 * error
    assert error < 0.1 * expected


def test_no_negatives_leave_nothing_to_learn() -> None:
    """An empty draw gives a loss of zero and no gradient, not NaN."""
    rows, weight, bias, targets = _problem(3)
    loss = sampled_loss(rows, weight, bias, targets, Negatives(torch.empty(0, dtype=torch.long), torch.empty(0)))
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, (rows, weight, bias)))


def _problem(num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(num_rows, 6, requires_grad=True)
    weight, bias = torch.randn(9, 6, requires_grad=True), torch.randn(9, requires_grad=True)
    return rows, weight, bias, torch.randint(9, (num_rows,))
