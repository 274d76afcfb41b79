"""The newer cells stay finite over ten thousand tokens of the worst input, for any gate values."""

from collections.abc import Callable

import pytest
import torch

from carousel_training.cells.registry import build_stack
from carousel_training.cells.stack import RecurrentStack, StackShape

NUM_STEPS, SEGMENT, LANES, X, H = 10_000, 500, 4, 6, 8


def _alternating(first: int) -> torch.Tensor:
    """+1 and -1 in turns of a length that grows with the lane."""
    steps_T1 = torch.arange(first, first + SEGMENT)[:, None]
    sign_TB = 1.0 - 2.0 * (steps_T1 // torch.tensor([1, 7, 100, 3000]) % 2)
    return sign_TB[..., None].expand(-1, -1, X)


def _random(first: int) -> torch.Tensor:
    return torch.randn(SEGMENT, LANES, X)


def _constant(first: int) -> torch.Tensor:
    return torch.tensor([1.0, -1.0, 0.0, 1e-6])[None, :, None].expand(SEGMENT, LANES, X)


def build(cell: str, gain: float, block: str = "plain") -> RecurrentStack:
    torch.manual_seed(0)
    stack = build_stack(cell, block, StackShape(X, H, 2, 0.0, num_heads=2))
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "decay" not in name:
                parameter.mul_(gain).add_(0.1 * gain * torch.randn_like(parameter))
    return stack.eval()


@pytest.mark.parametrize("cell", ["rg-lru", "slstm", "mlstm"])
@pytest.mark.parametrize("gain", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("inputs", [_alternating, _random, _constant], ids=["alternating", "random", "constant"])
def test_outputs_and_states_stay_finite(cell: str, gain: float, inputs: Callable[[int], torch.Tensor]) -> None:
    """With gates near their middle, saturated, and far beyond what a power of e can hold."""
    stack = build(cell, gain)
    state = stack.initial_state(LANES, torch.device("cpu"))
    with torch.no_grad():
        for first in range(0, NUM_STEPS, SEGMENT):
            y_TBH, state = stack(inputs(first), state)
            assert y_TBH.isfinite().all()
            assert all(tensor.isfinite().all() for tensor in state)


@pytest.mark.parametrize("cell", ["rg-lru", "slstm", "mlstm"])
@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_gradients_stay_finite(cell: str, gain: float) -> None:
    """Of weights and inputs, over a segment far into a text."""
    stack = build(cell, gain)
    state = stack.initial_state(LANES, torch.device("cpu"))
    for inputs in (_alternating, _random, _constant):
        x_TBX = inputs(3 * SEGMENT).clone().requires_grad_()
        y_TBH, after = stack(x_TBX, state)
        gradients = torch.autograd.grad(y_TBH.sum(), [x_TBX, *stack.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)
        state = tuple(tensor.detach() for tensor in after)


@pytest.mark.parametrize("cell", ["mingru", "minlstm", "rg-lru", "slstm", "mlstm"])
def test_blocks_stay_finite(cell: str) -> None:
    """The norms bound the stream for any weights."""
    stack = build(cell, 30.0, "residual")
    state = stack.initial_state(LANES, torch.device("cpu"))
    with torch.no_grad():
        for first in range(0, 2000, SEGMENT):
            y_TBH, state = stack(_alternating(first), state)
            assert y_TBH.isfinite().all()


@pytest.mark.parametrize("input_bias", [-200.0, 200.0])
def test_a_reading_of_nothing_is_finite(input_bias: float) -> None:
    """A query of zero, or a memory far below 1, reads as nothing, in both passes, and with finite gradients."""
    stack = build_stack("mlstm", "plain", StackShape(X, H, 1, 0.0, num_heads=2))
    parameters = dict(stack.named_parameters())
    with torch.no_grad():
        parameters["layers.0.weight_ih"][:4].zero_()  # of q
        parameters["layers.0.bias"][-4:-2] = input_bias
    x_TBX, state = torch.randn(5, LANES, X, requires_grad=True), stack.initial_state(LANES, torch.device("cpu"))
    y_TBH, _ = stack(x_TBX, state)
    outputs = []
    for step in range(5):
        output_BH, state, _ = stack.step(x_TBX[step : step + 1], state)
        outputs.append(output_BH)
    for found_TBH in (y_TBH, torch.stack(outputs)):
        assert found_TBH.tolist() == torch.zeros(5, LANES, H).tolist()
        for gradient in torch.autograd.grad(found_TBH.sum(), [x_TBX, *stack.parameters()]):
            assert gradient.isfinite().all()


def test_an_mlstms_heads_are_bounded_by_their_norm() -> None:
    """No head is longer than the root of its width, for any divisor."""
    stack = build("mlstm", 30.0)
    with torch.no_grad():
        dict(stack.named_parameters())["layers.1.weight_norm"].fill_(1.0)
        y_TBH, _ = stack(_random(0), stack.initial_state(LANES, torch.device("cpu")))
    lengths = torch.unflatten(y_TBH, 2, (2, H // 2)).norm(dim=3)
    assert 1.0 < lengths.max().item() <= (H // 2) ** 0.5 * 1.0001
