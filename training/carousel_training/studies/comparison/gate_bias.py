"""Shifts the bias of the gate that keeps a cell's state: the one value at a cell's start that a search may choose.

The direction is always that of keeping more: up for a forget gate, down for a gate that says how much is new.
"""

import torch

from carousel_training.cells.layered_stack import LayeredStack, RecurrentLayer, StackLayer
from carousel_training.cells.library_stack import LibraryStack
from carousel_training.cells.stack import RecurrentStack

LIBRARY_GATES = {"lstm": 1, "gru": 1}  # the number of the gate in torch's order: i, f, g, o and r, z, n
OPPOSITE_GATES = {"lstm-coupled": "i", "gru-2014": "z", "mingru": "z"}
FORGET = "f"


def has_gate(cell: str, stack: RecurrentStack) -> bool:
    """Whether the cell has a gate that keeps. Elman's, the clockwork, the time-delay net and 1997's LSTM have none."""
    return cell in LIBRARY_GATES or _gate_of(cell, stack) is not None


@torch.no_grad()
def shift_gate_bias(cell: str, stack: RecurrentStack, shift: float) -> None:
    """Adds `shift` in every layer; does nothing for a cell without such a gate."""
    if isinstance(stack, LibraryStack) and cell in LIBRARY_GATES:
        size, gate = stack.shape.hidden_size, LIBRARY_GATES[cell]
        for number in range(stack.shape.num_layers):
            stack.weights(number).bias_ih[gate * size : (gate + 1) * size] += shift
    elif isinstance(stack, LayeredStack) and (name := _gate_of(cell, stack)) is not None:
        for layer in stack.each():
            layer.bias[layer.rows(name)] += -shift if cell in OPPOSITE_GATES else shift


def _gate_of(cell: str, stack: RecurrentStack) -> str | None:
    if not isinstance(stack, LayeredStack):
        return None
    if cell in OPPOSITE_GATES:
        return OPPOSITE_GATES[cell]
    return FORGET if FORGET in getattr(stack.layer_type, "gates", ()) else None
