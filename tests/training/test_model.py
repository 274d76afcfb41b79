"""The network: shapes, initial values, and the loss it trains on."""

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


def test_the_forget_gate_starts_open() -> None:
    """The sum of the two forget biases is 1 in every layer."""
    layers = build().stack.layers
    for layer in range(2):
        bias = getattr(layers, f"bias_ih_l{layer}") + getattr(layers, f"bias_hh_l{layer}")
        torch.testing.assert_close(bias[8:16], torch.ones(8))


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


def test_a_detached_state_ends_back_propagation() -> None:
    """No gradient reaches what came before the cut, and values stay."""
    model = build()
    _, state = model(torch.randint(30, (1, 3)), model.initial_state(1))
    cut = detach(state)
    assert all(tensor.requires_grad for tensor in state)
    assert not any(tensor.requires_grad for tensor in cut)
    torch.testing.assert_close(cut, detach(state))
