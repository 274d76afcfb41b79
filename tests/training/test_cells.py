"""The recurrent layers against the equations in their docstrings, written out in numpy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from carousel_training.cells import CELLS, GRUStack, LSTMStack, StackShape

Array = npt.NDArray[np.float64]
SHAPE = StackShape(input_size=3, hidden_size=4, num_layers=1, dropout=0.0)


def logistic(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def gates(layers: torch.nn.Module, num_gates: int, x: Array, h: Array) -> tuple[list[Array], list[Array]]:
    """W x + b and U h + b' per gate, in torch's order."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in layers.named_parameters()}
    from_input = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
    from_state = weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
    return np.split(from_input, num_gates), np.split(from_state, num_gates)


def test_lstm_is_its_equations() -> None:
    """c = f * c + i * g and h = o * tanh(c), from a state that is not zero."""
    torch.manual_seed(0)
    stack = LSTMStack(SHAPE)
    x, h, c = torch.randn(3), torch.randn(4), torch.randn(4)
    wx, uh = gates(stack.layers, 4, x.double().numpy(), h.double().numpy())
    i, f, o = (logistic(wx[gate] + uh[gate]) for gate in (0, 1, 3))
    c_next = f * c.double().numpy() + i * np.tanh(wx[2] + uh[2])
    y_TBH, state = stack(x.view(1, 1, 3), (h.view(1, 1, 4), c.view(1, 1, 4)))
    np.testing.assert_allclose(y_TBH.detach()[0, 0], o * np.tanh(c_next), atol=1e-6)
    np.testing.assert_allclose(state[1].detach()[0, 0], c_next, atol=1e-6)


def test_gru_is_its_equations() -> None:
    """n = tanh(W x + b + r * (U h + b')) and h = (1 - z) * n + z * h."""
    torch.manual_seed(0)
    stack = GRUStack(SHAPE)
    x, h = torch.randn(3), torch.randn(4)
    wx, uh = gates(stack.layers, 3, x.double().numpy(), h.double().numpy())
    r, z = logistic(wx[0] + uh[0]), logistic(wx[1] + uh[1])
    expected = (1 - z) * np.tanh(wx[2] + r * uh[2]) + z * h.double().numpy()
    y_TBH, state = stack(x.view(1, 1, 3), (h.view(1, 1, 4),))
    np.testing.assert_allclose(y_TBH.detach()[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(state[0].detach()[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_the_initial_state_is_zero_for_every_lane(cell: str) -> None:
    """One [L,B,H] tensor of zeros per state name."""
    stack = CELLS[cell](StackShape(3, 4, 2, 0.0))
    state = stack.initial_state(5, torch.device("cpu"))
    assert [tensor.shape for tensor in state] == [(2, 5, 4)] * len(stack.state_names)
    assert not any(tensor.any() for tensor in state)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_dropout_acts_between_layers_while_training(cell: str) -> None:
    """Two layers differ from call to call in training and agree in evaluation; one layer has nothing between."""
    x_TBE = torch.randn(6, 2, 3)
    for num_layers, differs in ((2, True), (1, False)):
        stack = CELLS[cell](StackShape(3, 4, num_layers, 0.5))
        state = stack.initial_state(2, torch.device("cpu"))
        assert torch.equal(stack(x_TBE, state)[0], stack(x_TBE, state)[0]) is not differs
        stack.eval()
        assert torch.equal(stack(x_TBE, state)[0], stack(x_TBE, state)[0])
