"""For every cell, a sequence equals its repeated steps, states are carried, and dropout acts only in training."""

import pytest
import torch

from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import RecurrentStack, StackShape, State

CPU = torch.device("cpu")
NAMES = sorted(CELLS)


def build(cell: str, shape: StackShape) -> RecurrentStack:
    """A random stack whose weights are large enough to saturate some gates."""
    torch.manual_seed(3)
    stack = CELLS[cell](shape)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return stack


def random_state(stack: RecurrentStack, num_lanes: int) -> State:
    """Floats at random around what some inputs lead to; a counter or a window is as it was at the start."""
    start = state = stack.initial_state(num_lanes, CPU)
    for _ in range(3):
        x_SBX = torch.randn(1 + stack.num_context, num_lanes, stack.shape.input_size)
        state = tuple(tensor.detach() for tensor in stack.step(x_SBX, state).state)
    read = zip(state, start, strict=True)
    return tuple(t + 0.2 * torch.randn_like(t) if t.dtype.is_floating_point else fresh for t, fresh in read)


@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_sequence_is_its_steps(cell: str, num_layers: int) -> None:
    """The fast pass over T steps gives the outputs and the last state of T single steps of the written equations."""
    stack = build(cell, StackShape(5, 8, num_layers, 0.4)).eval()
    state = random_state(stack, 3)
    x_SBX = torch.randn(7 + stack.num_context, 3, 5)
    y_TBH, after = stack(x_SBX, state)
    outputs = []
    for step in range(7):
        output_BH, state, _ = stack.step(x_SBX[step : step + 1 + stack.num_context], state)
        outputs.append(output_BH)
    torch.testing.assert_close(y_TBH, torch.stack(outputs), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after, state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("weight_drop", [0.0, 0.3])
def test_gradients_of_a_sequence_are_those_of_its_steps(cell: str, weight_drop: float) -> None:
    """The fast pass and the written equations agree in the gradient of every weight, of the input and of the state."""
    stack = build(cell, StackShape(5, 8, 2, 0.4, is_locked=True, weight_drop=weight_drop)).eval()
    x_SBX = torch.randn(6 + stack.num_context, 3, 5, requires_grad=True)
    state = tuple(t.requires_grad_() if t.dtype.is_floating_point else t for t in random_state(stack, 3))
    wanted = [x_SBX, *(t for t in (*state, *stack.parameters()) if t.requires_grad)]
    y_TBH, after = stack(x_SBX, state)
    weights_TBH = torch.randn_like(y_TBH)
    ends = sum(t.square().sum() for t in after if t.dtype.is_floating_point)
    found = torch.autograd.grad((y_TBH * weights_TBH).sum() + ends, wanted, allow_unused=True)
    outputs = []
    for step in range(6):
        output_BH, state, _ = stack.step(x_SBX[step : step + 1 + stack.num_context], state)
        outputs.append(output_BH)
    ends = sum(t.square().sum() for t in state if t.dtype.is_floating_point)
    loss = (torch.stack(outputs) * weights_TBH).sum() + ends
    expected = torch.autograd.grad(loss, wanted, allow_unused=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("cell", NAMES)
def test_the_initial_state_is_the_layouts(cell: str) -> None:
    """Shapes, types and values are those that the layout lists, for every lane."""
    stack = CELLS[cell](StackShape(3, 4, 2, 0.0))
    tensors = stack.state_layout.tensors
    state = stack.initial_state(5, CPU)
    assert [tuple(tensor.shape) for tensor in state] == [(5, *tensor.shape) for tensor in tensors]
    assert [tensor.dtype for tensor in state] == [getattr(torch, tensor.dtype) for tensor in tensors]
    assert all(bool((values == tensor.initial).all()) for values, tensor in zip(state, tensors, strict=True))
    assert len({tensor.name for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("is_locked", [False, True])
def test_dropout_acts_between_layers_while_training(cell: str, is_locked: bool) -> None:
    """Two layers differ from call to call in training and agree in evaluation; one layer has nothing between."""
    for num_layers, differs in ((2, True), (1, False)):
        stack = CELLS[cell](StackShape(3, 4, num_layers, 0.5, is_locked=is_locked))
        state, x_SBX = stack.initial_state(2, CPU), torch.randn(6 + stack.num_context, 2, 3)
        assert torch.equal(stack(x_SBX, state)[0], stack(x_SBX, state)[0]) is not differs
        stack.eval()
        assert torch.equal(stack(x_SBX, state)[0], stack(x_SBX, state)[0])


@pytest.mark.parametrize("cell", NAMES)
def test_parameters_are_counted(cell: str) -> None:
    """The count is that of the values that an output depends on: each gets a gradient, and no other value does."""
    stack = build(cell, StackShape(3, 4, 2, 0.0, num_clocks=2)).train()
    x_SBX = torch.randn(8 + stack.num_context, 6, 3)
    y_TBH, _ = stack(x_SBX, random_state(stack, 6))
    y_TBH.square().sum().backward()
    num_live = sum(int(tensor.grad.count_nonzero()) for tensor in stack.parameters() if tensor.grad is not None)
    assert stack.num_parameters == num_live > 0
