"""A positive shift makes the gate that keeps the state keep more, and changes nothing else."""

import pytest
import torch

from carousel_training.cells.registry import CELLS, build_stack
from carousel_training.cells.stack import StackShape
from carousel_training.settings import CELLS_WITHOUT_BLOCKS
from carousel_training.studies.comparison.gate_bias import has_gate, shift_gate_bias

SHAPE = StackShape(input_size=4, hidden_size=8, num_layers=2, dropout=0.0)
WITHOUT = {"elman", "clockwork", "tdnn", "lstm-1997"}


def memory_after(cell: str, block: str, shift: float) -> float:
    """Returns what is left of a state of ones after a step with zero input and weights."""
    torch.manual_seed(0)
    stack = build_stack(cell, block, SHAPE)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "weight" in name and "norm" not in name:
                parameter.zero_()
        shift_gate_bias(cell, stack, shift)
        state = tuple(torch.ones_like(tensor) for tensor in stack.initial_state(1, torch.device("cpu")))
        after = stack.step(torch.zeros(1, 1, 4), state).state
        parts = {tensor.name: value for tensor, value in zip(stack.state_layout.tensors, after, strict=True)}
    memory = parts.get("c_1", after[-1]).double()
    if "m_1" in parts:  # what is kept is divided by exp(m)
        memory = memory * parts["m_1"].double().exp().view(1, -1, *[1] * (memory.dim() - 2))
    return float(memory.mean())


@pytest.mark.parametrize("block", ["plain", "residual"])
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in WITHOUT])
def test_more_shift_keeps_more(cell: str, block: str) -> None:
    """A positive shift keeps more and a negative one less, for every cell."""
    if block == "residual" and cell in CELLS_WITHOUT_BLOCKS:
        pytest.skip("there is no such block")
    assert has_gate(cell, build_stack(cell, block, SHAPE))
    low, plain, high = (memory_after(cell, block, shift) for shift in (-2.0, 0.0, 2.0))
    assert low < plain < high


@pytest.mark.parametrize("cell", sorted(WITHOUT))
def test_cells_without_a_gate_stay_as_they_are(cell: str) -> None:
    """A cell without such a gate is unchanged, and has_gate is false."""
    torch.manual_seed(0)
    stack = CELLS[cell](SHAPE)
    before = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    shift_gate_bias(cell, stack, 2.0)
    assert not has_gate(cell, stack)
    assert all(torch.equal(before[name], tensor) for name, tensor in stack.state_dict().items())


def test_the_other_gates_stay() -> None:
    """One value per unit of every layer moves, each by the shift."""
    cell = "lstm-peephole"
    stack = CELLS[cell](SHAPE)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in stack.parameters()])
    shift_gate_bias(cell, stack, 0.5)
    moved = torch.cat([parameter.detach().flatten() for parameter in stack.parameters()]) - before
    assert moved[moved != 0.0].tolist() == pytest.approx([0.5] * 16)
