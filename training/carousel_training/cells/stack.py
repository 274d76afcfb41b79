"""The interface of every cell, so that the model, the trainer and the exporter need not know the cell.

The unit is a stack of layers: some cells read the layer below. Legend: T steps, B lanes, X input width, H hidden width,
L layers, S = T + num_context steps of input. A state is a tuple of tensors [B, *shape] in the order of `state_layout`,
which is also the order of a bundle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from carousel.bundle.layout import StateLayout, StateTensor
from carousel_training.errors import SettingsError

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class StackShape:
    """The sizes of a stack and its regularisation in training.

    `dropout` acts between layers, with one mask for all steps if `is_locked`; `weight_drop` is the share of recurrent
    weights that are zero for a segment (Merity et al. 2017). `window` is the number of tokens that a time-delay network
    sees, `num_clocks` the number of a clockwork net's groups, `num_heads` the number of blocks in the matrices of cells
    with heads, `mlp_expansion` the width of a residual block's feed-forward net in hidden sizes.
    """

    input_size: int
    hidden_size: int
    num_layers: int
    dropout: float
    is_locked: bool = False
    weight_drop: float = 0.0
    window: int = 8
    num_clocks: int = 4
    num_heads: int = 4
    mlp_expansion: int = 3

    @property
    def head_size(self) -> int:
        """D, the width of a head. Raises SettingsError for a hidden width that is no multiple of the heads."""
        if self.hidden_size % self.num_heads:
            raise SettingsError(f"a hidden size of {self.hidden_size} is no multiple of num_heads, {self.num_heads}")
        return self.hidden_size // self.num_heads


class Step(NamedTuple):
    """One step of a stack, with its gates' values [B,H] named GATE_LAYER, such as `f_0`."""

    output_BH: torch.Tensor
    state: State
    gates: Mapping[str, torch.Tensor]


class RecurrentStack(nn.Module):
    """L layers of one cell. `forward` is a fast pass over a sequence; `step` writes out the cell's equations in plain
    torch.

    `step` returns the gates, applies no dropout, and is what tests compare `forward` with. Both are differentiable, in
    the state too. `learning_rate` is a peak rate at which the cell trains well, `num_context` the number of earlier
    inputs that a step must see.
    """

    learning_rate: float = 4e-3

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.shape = shape

    @property
    def num_context(self) -> int:
        return 0

    @property
    def state_layout(self) -> StateLayout:
        """Returns names, shapes, types and initial values of the state, bottom layer first."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """The number of parameters that are trained and that some output depends on."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad) - self.num_dead

    @property
    def num_dead(self) -> int:
        """The number of trained values that no output depends on, since the cell masks them."""
        return 0

    def initial_state(self, num_lanes: int, device: torch.device) -> State:
        """Returns the state before any token."""
        return tuple(
            torch.full((num_lanes, *tensor.shape), tensor.initial, dtype=getattr(torch, tensor.dtype), device=device)
            for tensor in self.state_layout.tensors
        )

    def remember(self, ids_TB: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Returns the S tokens to embed, `num_context` earlier ones first (-1: none yet), and the state after them.

        Only a cell with tokens as its state does anything here.
        """
        return ids_TB, state

    def forward(self, x_SBX: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Returns y_TBH of the top layer and the state after the last step."""
        raise NotImplementedError

    def step(self, x_SBX: torch.Tensor, state: State) -> Step:
        """Returns the same for T = 1, so S = 1 + num_context."""
        raise NotImplementedError


def start_afresh(state: State, initial: State, is_fresh_B: torch.Tensor) -> State:
    """Returns `initial` in the lanes that begin afresh, and `state` in the others."""
    return tuple(
        torch.where(is_fresh_B.view(-1, *[1] * (carried.dim() - 1)), first, carried)
        for carried, first in zip(state, initial, strict=True)
    )


def vectors(parts: tuple[str, ...], shape: StackShape) -> StateLayout:
    """Returns the layout of most cells: per layer one float32 [H] for each part, such as h_0, c_0, h_1, c_1."""
    size, layers = (shape.hidden_size,), range(shape.num_layers)
    return StateLayout(tuple(StateTensor(f"{part}_{layer}", size, "float32") for layer in layers for part in parts))
