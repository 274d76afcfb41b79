"""The network has the right shapes, initial values and loss."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from carousel_training.model import ModelConfig, RecurrentLM, detach


def build(cell: str = "lstm", *, tied: bool = True, hidden_size: int = 8, embedding_size: int = 8) -> RecurrentLM:
    torch.manual_seed(0)
    return RecurrentLM(ModelConfig(30, cell, 2, hidden_size, embedding_size, tied, dropout=0.0))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("tied", "embedding_size"), [(True, 8), (True, 5), (False, 8), (False, 5)])
def test_logits_are_batch_by_time_by_vocabulary(cell: str, tied: bool, embedding_size: int) -> None:
    """Every cell and every kind of output gives [B,T,V] and a state of the layout's shape."""
    model = build(cell, tied=tied, embedding_size=embedding_size)
    logits_BTV, state = model(torch.randint(30, (3, 4)), model.initial_state(3))
    assert logits_BTV.shape == (3, 4, 30)
    assert [tensor.shape for tensor in state] == [(3, *t.shape) for t in model.state_layout.tensors]


def test_a_tied_output_shares_the_matrix() -> None:
    """Tying saves V x E parameters; a projection appears only where the widths differ."""
    assert build(tied=True).num_parameters == build(tied=False).num_parameters - 30 * 8
    assert build(tied=True).projection is None
    assert build(tied=True, embedding_size=5).projection is not None
    assert build(tied=False, embedding_size=5).projection is None


@pytest.mark.parametrize("tied", [True, False])
def test_inputs_have_unit_scale_and_logits_are_small(tied: bool) -> None:
    """A tied matrix starts at a scale between those of inputs and logits."""
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(500, "lstm", 1, 64, 64, tied, dropout=0.0))
    ids_SB = torch.randint(500, (20, 30))
    x_SBE = model.embed(ids_SB)
    torch.testing.assert_close(x_SBE, model.input_table[ids_SB])
    assert x_SBE.square().mean().sqrt().item() == pytest.approx(64**-0.25 if tied else 1.0, rel=0.05)
    logits_BTV, _ = model(torch.randint(500, (4, 20)), model.initial_state(4))
    assert 0.05 < logits_BTV.std().item() < 0.5


def test_a_fresh_model_knows_how_often_tokens_occur() -> None:
    """An untrained model is as good as the counts alone. A token that does not occur counts once."""
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(30, "gru", 1, 8, 8, True, dropout=0.0))
    counts_V = torch.arange(30) ** 2
    model.begin_with_counts(counts_V)
    shares_V = counts_V.clamp_min(1).double() / counts_V.clamp_min(1).sum()
    torch.testing.assert_close(model.output_bias.detach().double().exp(), shares_V, rtol=1e-5, atol=1e-8)
    ids_BT = torch.multinomial(shares_V, 2000, replacement=True).view(10, 200)
    nats, _ = model.loss(ids_BT[:, :-1], ids_BT[:, 1:], model.initial_state(10))
    entropy = -(shares_V * shares_V.log()).sum().item()
    assert nats.item() == pytest.approx(entropy, abs=0.15)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_and_its_gradient_are_cross_entropy(tied: bool) -> None:
    """The blockwise loss equals torch's on the model's own logits, in value and in every parameter's gradient."""
    model = build(tied=tied, embedding_size=5)
    ids_BT, targets_BT = torch.randint(30, (3, 7)), torch.randint(30, (3, 7))
    loss, _ = model.loss(ids_BT, targets_BT, model.initial_state(3))
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits_BTV, _ = model(ids_BT, model.initial_state(3))
    expected = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, {name: parameter.grad for name, parameter in model.named_parameters()})


def test_penalties_are_mean_squares_of_activations_and_of_their_changes() -> None:
    """Without dropout both penalties act on the top layer's output, and neither changes the nats."""
    torch.manual_seed(0)
    plain, weighted = (
        RecurrentLM(ModelConfig(30, "gru", 1, 8, 8, True, 0.0, activation_penalty=alpha, temporal_penalty=beta))
        for alpha, beta in ((0.0, 0.0), (2.0, 3.0))
    )
    weighted.load_state_dict(plain.state_dict())
    ids_BT, targets_BT = torch.randint(30, (3, 7)), torch.randint(30, (3, 7))
    y_TBH, _ = plain.hidden(ids_BT, plain.initial_state(3))
    expected = 2.0 * y_TBH.square().mean() + 3.0 * (y_TBH[1:] - y_TBH[:-1]).square().mean()
    without = plain.objective(ids_BT, targets_BT, plain.initial_state(3))
    with_penalty = weighted.objective(ids_BT, targets_BT, weighted.initial_state(3))
    assert without.penalty.item() == 0.0
    torch.testing.assert_close(with_penalty.penalty, expected)
    torch.testing.assert_close(with_penalty.nats, without.nats)


def test_activations_are_penalised_after_dropout_and_changes_before_it() -> None:
    """With half of the output dropped, one penalty acts after the dropout and the other before it."""
    torch.manual_seed(0)
    penalties: list[dict[str, Any]] = [{"activation_penalty": 1.0}, {"temporal_penalty": 1.0}]
    alpha, beta = (
        RecurrentLM(ModelConfig(30, "gru", 1, 8, 8, True, 0.0, output_dropout=0.5, **penalty)) for penalty in penalties
    )
    beta.load_state_dict(alpha.state_dict())
    ids_BT = torch.randint(30, (3, 7))
    y_TBH, _ = beta.eval().hidden(ids_BT, beta.initial_state(3))
    torch.manual_seed(1)
    dropped_TBH, _ = alpha.train().hidden(ids_BT, alpha.initial_state(3))
    torch.manual_seed(1)
    of_activations = alpha.objective(ids_BT, ids_BT, alpha.initial_state(3)).penalty
    of_changes = beta.train().objective(ids_BT, ids_BT, beta.initial_state(3)).penalty
    torch.testing.assert_close(of_activations, dropped_TBH.square().mean())
    torch.testing.assert_close(of_changes, (y_TBH[1:] - y_TBH[:-1]).square().mean())


def test_a_token_that_is_not_there_is_embedded_as_nothing() -> None:
    """Before a text a window holds -1, whose embedding and gradient are zero."""
    model = build("tdnn")
    x_SBE = model.embed(torch.tensor([[-1], [4]]))
    assert not x_SBE[0].any()
    torch.testing.assert_close(x_SBE[1, 0], model.input_table[4])


def test_a_detached_state_ends_back_propagation() -> None:
    """Detaching keeps the values, and no gradient passes it."""
    model = build()
    _, state = model(torch.randint(30, (1, 3)), model.initial_state(1))
    cut = detach(state)
    assert all(tensor.requires_grad for tensor in state)
    assert not any(tensor.requires_grad for tensor in cut)
    torch.testing.assert_close(cut, detach(state))
