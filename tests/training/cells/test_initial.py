"""All cells are initialised by one rule, so they differ by their equations alone."""

import pytest
import torch

from carousel_training.cells.clockwork import ClockworkLayer
from carousel_training.cells.registry import CELLS
from carousel_training.cells.stack import StackShape
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.optimizers import Optimizers
from carousel_training.settings import OptimizerSettings

CPU = torch.device("cpu")
GATES_THAT_KEEP = {  # and whether an open gate is one whose value is high
    "lstm": ("f", True),
    "lstm-peephole": ("f", True),
    "lstm-peephole-dense": ("f", True),
    "lstm-depth-gated": ("f", True),
    "lstm-coupled": ("i", False),
    "gru": ("z", True),
    "gru-2014": ("z", False),
    "mingru": ("z", False),
    "minlstm": ("f", True),
}


@pytest.mark.parametrize("cell", list(CELLS))
def test_a_fresh_state_is_neither_silent_nor_loud(cell: str) -> None:
    """On inputs of unit scale the root mean square of h lies within a factor of 9 for all cells, also for narrow
    inputs; within one of 25 with a second layer. The sLSTM's is the least: it is a mean over many steps."""
    for num_layers, input_size in ((1, 64), (2, 64), (1, 8)):
        torch.manual_seed(0)
        stack = CELLS[cell](StackShape(input_size, 128, num_layers, 0.0)).eval()
        x_SBX = torch.randn(40 + stack.num_context, 4, input_size)
        y_TBH, _ = stack(x_SBX, stack.initial_state(4, CPU))
        rms = y_TBH[20:].square().mean().sqrt().item()
        assert (0.04 if num_layers > 1 else 0.1) < rms < 0.9, (cell, num_layers, input_size)


@pytest.mark.parametrize("cell", GATES_THAT_KEEP)
def test_a_gate_that_keeps_begins_at_the_same_share(cell: str) -> None:
    """Without input every gated cell keeps 0.73 of its state, and all other gates are neutral."""
    stack = CELLS[cell](StackShape(5, 16, 2, 0.0)).eval()
    nothing = tuple(torch.zeros_like(t) for t in stack.initial_state(1, CPU))
    gates = stack.step(torch.zeros(1, 1, 5), nothing).gates
    keeping, is_high = GATES_THAT_KEEP[cell]
    for name, values in gates.items():
        share = torch.sigmoid(torch.tensor(1.0 if is_high else -1.0)).expand(values.shape)
        neutral = torch.zeros_like(values) if name[0] in "gn" else torch.full_like(values, 0.5)
        torch.testing.assert_close(values.detach(), share if name[0] == keeping else neutral)


def test_every_gated_cell_is_asked_what_it_keeps() -> None:
    """No cell with such a gate joins the registry without a word here; these have none, or one that begins at many
    shares, spread over units or heads as in their papers."""
    assert set(CELLS) - set(GATES_THAT_KEEP) - {"rg-lru", "slstm", "mlstm"} == {
        *("elman", "clockwork", "tdnn", "lstm-1997"),
    }


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_a_bias_moves_as_fast_as_in_other_cells(cell: str) -> None:
    """Of torch's two bias vectors one lives; only the GRU's second is a value of its own, in the rows of n."""
    torch.manual_seed(0)
    model = RecurrentLM(ModelConfig(9, cell, 2, 8, 6, tied=False, dropout=0.0))
    optimizers = Optimizers(model, OptimizerSettings(learning_rate=0.1))
    for _ in range(3):
        loss, _ = model.loss(torch.randint(9, (2, 7)), torch.randint(9, (2, 7)), model.initial_state(2))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers.step()
    for layer in range(2):
        second = getattr(model.stack.layers, f"bias_hh_l{layer}")
        assert not second[: 16 if cell == "gru" else None].any()
        assert cell != "gru" or second[16:].all()
        assert (getattr(model.stack.layers, f"bias_ih_l{layer}") != 0).all()


def test_each_group_of_clocks_keeps_the_length_of_its_state() -> None:
    """The blocks on the diagonal, which alone decide how long a state lasts, are orthogonal after masking."""
    torch.manual_seed(0)
    layer = ClockworkLayer(StackShape(8, 64, 1, 0.0, num_clocks=4), 0)
    masked_HH = layer.weight_hh * layer.reads_HH
    for start in range(0, 64, 16):
        block = masked_HH[start : start + 16, start : start + 16]
        torch.testing.assert_close(block @ block.t(), torch.eye(16), atol=1e-5, rtol=0.0)
    radius = torch.linalg.eigvals(masked_HH.detach().double()).abs()
    assert radius.min().item() == pytest.approx(1.0, abs=1e-4)
    assert radius.max().item() == pytest.approx(1.0, abs=1e-4)


def test_one_layer_of_the_depth_gated_lstm_is_the_one_with_peepholes() -> None:
    """With nothing below there is no depth gate: the same weights, drawn in the same order, the same outputs."""
    x_SBX = torch.randn(6, 2, 5)
    outputs = []
    for cell in ("lstm-depth-gated", "lstm-peephole"):
        torch.manual_seed(0)
        stack = CELLS[cell](StackShape(5, 8, 1, 0.0))
        outputs.append(stack(x_SBX, stack.initial_state(2, CPU))[0])
    assert torch.equal(outputs[0], outputs[1])
