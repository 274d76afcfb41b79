"""A stack of residual blocks: the cell, then a gated feed-forward net, each added to its input."""

from dataclasses import replace
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateLayout, StateTensor
from carousel_training.cells.dropout import drop_units
from carousel_training.cells.initial import initialise_input
from carousel_training.cells.stack import RecurrentStack, StackShape, State, Step

Tensor = torch.Tensor


class RMSNorm(nn.Module):
    """Computes g * x sqrt(H) / |x| (Zhang & Sennrich 2019). For x = 0 the result and its gradient are 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = len(self.weight) ** 0.5 / length.masked_fill(length == 0.0, torch.inf)
        normed: Tensor = x * scale * self.weight
        return normed.to(x.dtype)


class GatedMLP(nn.Module):
    """W_d (gelu(W_g x) * W_u x), without biases, with M x H units between (Shazeer 2020, De et al. 2024).

    gelu is its form with tanh. `weight_up` [2MH,H] holds W_g, then W_u.
    """

    def __init__(self, size: int, expansion: int) -> None:
        super().__init__()
        self.weight_up = nn.Parameter(torch.empty(2 * expansion * size, size))
        self.weight_down = nn.Parameter(torch.empty(size, expansion * size))
        for weight in (self.weight_up, self.weight_down):
            initialise_input(weight)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = functional.linear(x, self.weight_up).chunk(2, dim=-1)
        return functional.linear(functional.gelu(gate, approximate="tanh") * up, self.weight_down)


class ResidualBlock(nn.Module):
    """Computes u = x + cell(norm(x));  y = u + mlp(norm(u))."""

    def __init__(self, cell: RecurrentStack, expansion: int) -> None:
        super().__init__()
        size = cell.shape.hidden_size
        self.cell = cell
        self.cell_norm, self.mlp_norm = RMSNorm(size), RMSNorm(size)
        self.mlp = GatedMLP(size, expansion)


class ResidualStack(RecurrentStack):
    """Stacks L blocks, each with one layer of any cell, and a norm after the last. If X is not H, a linear layer comes
    first:

    y_0 = P x,  u_l = y_{l-1} + cell_l(norm(y_{l-1})),  y_l = u_l + mlp_l(norm(u_l)),  output = norm(y_L)

    This is the pre-norm block of Griffin (De et al. 2024), with its RMSNorm and gated network. The language models of
    the minGRU and minLSTM paper (Feng et al. 2024) use such blocks. The convolutions that these models have before the
    cell are left out. Dropout acts on what the branches add. The names of states carry the number of their block.
    """

    def __init__(self, cell: type[RecurrentStack], shape: StackShape) -> None:
        super().__init__(shape)
        size, self.learning_rate = shape.hidden_size, cell.learning_rate
        self.projection = None if shape.input_size == size else nn.Linear(shape.input_size, size)
        alone = replace(shape, input_size=size, num_layers=1, dropout=0.0)
        self.blocks = nn.ModuleList(ResidualBlock(cell(alone), shape.mlp_expansion) for _ in range(shape.num_layers))
        self.norm = RMSNorm(size)

    def each(self) -> list[ResidualBlock]:
        return [cast(ResidualBlock, block) for block in self.blocks]

    @property
    def state_layout(self) -> StateLayout:
        return StateLayout(
            tuple(tensor for index in range(self.shape.num_layers) for tensor in self.block_layout(index))
        )

    def block_layout(self, index: int) -> tuple[StateTensor, ...]:
        """Returns the tensors of one block in the order of its cell, which names them as if it were the only one."""
        own = self.each()[index].cell.state_layout.tensors
        return tuple(replace(tensor, name=numbered(tensor.name, index)) for tensor in own)

    def forward(self, x_SBX: Tensor, state: State) -> tuple[Tensor, State]:
        y_TBH, after = x_SBX if self.projection is None else self.projection(x_SBX), list[Tensor]()
        for block, before in zip(self.each(), self._by_block(state), strict=True):
            from_cell_TBH, state_next = block.cell(block.cell_norm(y_TBH), before)
            y_TBH = y_TBH + self._drop(from_cell_TBH)
            y_TBH = y_TBH + self._drop(block.mlp(block.mlp_norm(y_TBH)))
            after += state_next
        return self.norm(y_TBH), tuple(after)

    def step(self, x_SBX: Tensor, state: State) -> Step:
        y_BX, after, gates = x_SBX[0], list[Tensor](), dict[str, Tensor]()
        y_BH = y_BX if self.projection is None else self.projection(y_BX)
        for index, (block, before) in enumerate(zip(self.each(), self._by_block(state), strict=True)):
            step = block.cell.step(block.cell_norm(y_BH)[None], before)
            y_BH = y_BH + step.output_BH
            y_BH = y_BH + block.mlp(block.mlp_norm(y_BH))
            after += step.state
            gates |= {numbered(name, index): values for name, values in step.gates.items()}
        return Step(self.norm(y_BH), tuple(after), gates)

    def _drop(self, x_TBH: Tensor) -> Tensor:
        return drop_units(x_TBH, self.shape.dropout, is_locked=self.shape.is_locked, is_training=self.training)

    def _by_block(self, state: State) -> list[State]:
        """Splits the state by block. All blocks have the same number of tensors."""
        num_parts = len(state) // self.shape.num_layers
        return [state[first : first + num_parts] for first in range(0, len(state), num_parts)]


def numbered(name: str, index: int) -> str:
    """Renames a tensor or gate of a one-layer stack, such as f_0, to its block's number."""
    return f"{name.removesuffix('_0')}_{index}"
