"""In residual blocks around every cell, the fast pass equals the written one, and dropout acts on branches."""

import math

import numpy as np
import pytest
import torch

from carousel_training.cells.registry import CELLS, build_stack
from carousel_training.cells.residual import GatedMLP, ResidualStack, RMSNorm
from carousel_training.cells.stack import RecurrentStack, StackShape, State
from carousel_training.errors import SettingsError
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import CELLS_WITHOUT_BLOCKS, ModelSettings, Settings

CPU = torch.device("cpu")
IN_BLOCKS = sorted(set(CELLS) - set(CELLS_WITHOUT_BLOCKS))


def build(cell: str, shape: StackShape) -> RecurrentStack:
    torch.manual_seed(3)
    stack = build_stack(cell, "residual", shape)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return stack


def doubled(state: State) -> State:
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in state)


@pytest.mark.parametrize("cell", IN_BLOCKS)
@pytest.mark.parametrize("input_size", [5, 8])
def test_a_sequence_and_its_gradients_are_those_of_its_steps(cell: str, input_size: int) -> None:
    """Outputs, the last state, and the gradients by input and weights, in double precision, with inputs of another
    width than the blocks and of the same."""
    stack = build(cell, StackShape(input_size, 8, 2, 0.4)).double().eval()
    x_TBX, state = torch.randn(7, 3, input_size, dtype=torch.float64), doubled(stack.initial_state(3, CPU))
    wanted = [x_TBX.requires_grad_(), *(p for p in stack.parameters() if p.requires_grad)]
    y_TBH, after = stack(x_TBX, state)
    outputs = []
    for x_1BX in x_TBX.split(1):  # type: ignore[no-untyped-call]
        output_BH, state, _ = stack.step(x_1BX, state)
        outputs.append(output_BH)
    torch.testing.assert_close(y_TBH, torch.stack(outputs))
    torch.testing.assert_close(after, state)
    weights_TBH = torch.randn_like(y_TBH)
    found = torch.autograd.grad((y_TBH * weights_TBH).sum(), wanted, allow_unused=True)
    expected = torch.autograd.grad((torch.stack(outputs) * weights_TBH).sum(), wanted, allow_unused=True)
    torch.testing.assert_close(found, expected)


def test_a_step_is_the_blocks_equations() -> None:
    """One block around an Elman net, written out in numpy."""
    stack = build("elman", StackShape(3, 4, 1, 0.0, mlp_expansion=2)).double().eval()
    w = {name: tensor.detach().numpy() for name, tensor in stack.named_parameters()}
    (x_X, h_H) = np.array([0.3, -1.0, 2.0]), np.array([0.1, -0.5, 0.9, 0.2])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        normed: np.ndarray = w[name] * x / np.sqrt(np.mean(x**2))
        return normed

    y = w["projection.weight"] @ x_X + w["projection.bias"]
    cell = "blocks.0.cell.layers"
    sums = w[f"{cell}.weight_ih_l0"] @ norm(y, "blocks.0.cell_norm.weight") + w[f"{cell}.bias_ih_l0"]
    h = np.tanh(sums + w[f"{cell}.weight_hh_l0"] @ h_H + w[f"{cell}.bias_hh_l0"])
    u = y + h
    gate, up = np.split(w["blocks.0.mlp.weight_up"] @ norm(u, "blocks.0.mlp_norm.weight"), 2)
    gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    y = u + w["blocks.0.mlp.weight_down"] @ (gelu * up)
    found = stack.step(torch.tensor(x_X)[None, None], (torch.tensor(h_H)[None],))
    np.testing.assert_allclose(found.output_BH[0].detach(), norm(y, "norm.weight"), atol=1e-12)
    np.testing.assert_allclose(found.state[0][0].detach(), h, atol=1e-12)


@pytest.mark.parametrize("cell", IN_BLOCKS)
def test_states_and_gates_carry_the_number_of_their_block(cell: str) -> None:
    """The same names as a plain stack's, but for a counter, which each block has of its own."""
    stack = build_stack(cell, "residual", StackShape(4, 4, 3, 0.0))
    alone = CELLS[cell](StackShape(4, 4, 1, 0.0)).state_layout.tensors
    names = [tensor.name for tensor in stack.state_layout.tensors]
    assert names == [f"{tensor.name.removesuffix('_0')}_{block}" for block in range(3) for tensor in alone]
    step = stack.step(torch.randn(1, 2, 4), stack.initial_state(2, CPU))
    assert {name[-2:] for name in step.gates} == {"_0", "_1", "_2"}
    for values, tensor in zip(step.state, stack.state_layout.tensors, strict=True):
        assert (values.shape, values.dtype) == ((2, *tensor.shape), getattr(torch, tensor.dtype))


@pytest.mark.parametrize("is_locked", [False, True])
def test_dropout_acts_on_branches_while_training(is_locked: bool) -> None:
    """Also with one block. Locked, a unit that a branch does not add is missing at every step of the segment."""
    stack = build_stack("lstm", "residual", StackShape(6, 6, 1, 0.5, is_locked=is_locked))
    state, x_TBX = stack.initial_state(2, CPU), torch.randn(5, 2, 6)
    assert not torch.equal(stack(x_TBX, state)[0], stack(x_TBX, state)[0])
    assert isinstance(stack, ResidualStack)
    seen = list[torch.Tensor]()
    stack.each()[0].mlp_norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0] - x_TBX))
    stack(x_TBX, state)
    is_missing_TBH = seen[0].abs() < 1e-7
    assert is_missing_TBH.any()
    assert bool((is_missing_TBH == is_missing_TBH[:1]).all()) is is_locked
    stack.eval()
    assert torch.equal(stack(x_TBX, state)[0], stack(x_TBX, state)[0])


def test_a_vector_of_zeros_has_a_norm_and_a_gradient_of_zero() -> None:
    """Nothing infinite reaches what made it."""
    x = torch.zeros(2, 4, requires_grad=True)
    y = RMSNorm(4)(x)
    y.sum().backward()
    assert y.tolist() == torch.zeros(2, 4).tolist()
    assert x.grad is not None
    assert x.grad.tolist() == torch.zeros(2, 4).tolist()


def test_the_feed_forward_net_is_as_wide_as_it_is_told() -> None:
    """3 x M x H x H weights."""
    assert sum(parameter.numel() for parameter in GatedMLP(8, 5).parameters()) == 3 * 5 * 8 * 8


@pytest.mark.parametrize("cell", sorted(CELLS_WITHOUT_BLOCKS))
def test_cells_that_make_no_sense_in_blocks_are_refused(cell: str) -> None:
    """The settings and the network both refuse these cells, and the sentence says why."""
    with pytest.raises(SettingsError, match=f"{cell} cannot be in residual blocks: "):
        Settings.load(None, ["model.block=residual", f"model.cell={cell}"])
    with pytest.raises(SettingsError, match=f"{cell} cannot be in residual blocks: "):
        RecurrentLM(ModelConfig(9, cell, 1, 4, 4, tied=True, dropout=0.0, block="residual"))


def test_settings_reach_the_network() -> None:
    """The block, its width and the number of heads."""
    given = {"cell": "slstm", "block": "residual", "mlp_expansion": 2, "num_heads": 2, "hidden_size": 8}
    model = RecurrentLM(ModelConfig.from_settings(ModelSettings.model_validate(given), 9))
    assert isinstance(model.stack, ResidualStack)
    assert model.stack.each()[0].mlp.weight_down.shape == (8, 16)
    assert model.stack.each()[0].cell.shape.head_size == 4
    assert not isinstance(RecurrentLM(ModelConfig.from_settings(ModelSettings(), 9)).stack, ResidualStack)


@pytest.mark.parametrize("cell", ["slstm", "mlstm", "rg-lru"])
def test_a_width_that_heads_do_not_share_is_refused(cell: str) -> None:
    """By the settings and by the cell itself."""
    with pytest.raises(SettingsError, match=f"hidden_size of {cell} must be a multiple of num_heads, 4"):
        Settings.load(None, [f"model.cell={cell}", "model.hidden_size=30"])
    with pytest.raises(SettingsError, match="a hidden size of 30 is no multiple of num_heads, 4"):
        CELLS[cell](StackShape(30, 30, 1, 0.0))
