"""Shifts the bias of the gate that keeps a cell's state, the one start value that a search may choose.

A shift always means keeping more: up for a forget gate, down for a gate that sets the new share.
"""

import torch

from carousel_training.cells.layered_stack import LayeredStack, RecurrentLayer, StackLayer
from carousel_training.cells.library_stack import LibraryStack
from carousel_training.cells.mlstm import MLSTMLayer
from carousel_training.cells.residual import ResidualStack
from carousel_training.cells.rg_lru import RGLRULayer
from carousel_training.cells.slstm import SLSTMLayer
from carousel_training.cells.stack import RecurrentStack

LIBRARY_CELLS = ("lstm", "gru")  # in torch's order of gates, i f g o and r z n, the second keeps
OPPOSITE_GATES = {"lstm-coupled": "i", "gru-2014": "z", "mingru": "z"}
FORGET = "f"


def has_gate(cell: str, stack: RecurrentStack) -> bool:
    """Returns whether the cell has a gate that keeps. elman, clockwork, tdnn and lstm-1997 have none."""
    return bool(keeping_biases(cell, stack))


@torch.no_grad()
def shift_gate_bias(cell: str, stack: RecurrentStack, shift: float) -> None:
    """Adds `shift` in every layer. Does nothing for a cell without such a gate."""
    for bias in keeping_biases(cell, stack):
        bias += -shift if cell in OPPOSITE_GATES else shift


def keeping_biases(cell: str, stack: RecurrentStack) -> list[torch.Tensor]:
    """Returns the part of each layer's bias that belongs to the gate, for writing in place."""
    if isinstance(stack, ResidualStack):
        return [bias for block in stack.each() for bias in keeping_biases(cell, block.cell)]
    if isinstance(stack, LibraryStack) and cell in LIBRARY_CELLS:
        size = stack.shape.hidden_size
        return [stack.weights(layer).bias_ih[size : 2 * size] for layer in range(stack.shape.num_layers)]
    if not isinstance(stack, LayeredStack):
        return []
    found = [_of_layer(cell, layer) for layer in stack.each()]
    return [bias for bias in found if bias is not None]


def _of_layer(cell: str, layer: StackLayer) -> torch.Tensor | None:
    size = layer.shape.hidden_size
    match layer:
        case SLSTMLayer():
            return layer.bias[2 * size : 3 * size]
        case MLSTMLayer():
            return layer.bias[-layer.shape.num_heads :]
        case RGLRULayer():
            return layer.decay
        case RecurrentLayer():
            gate = OPPOSITE_GATES.get(cell, FORGET)
            return layer.bias[layer.rows(gate)] if gate in layer.gates else None
    return None
