"""Stacks of recurrent layers behind one small interface, so that the model, the trainer and the exporter need not know
which cell they run.

Legend: T steps, B lanes, E input width, H hidden width, L layers. A state is a tuple of tensors [L,B,H] in the order of
`state_names`; for each layer a bundle has one tensor [H] per name.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class StackShape:
    """Sizes of a stack; `dropout` is the share of units dropped between layers while training."""

    input_size: int
    hidden_size: int
    num_layers: int
    dropout: float


class RecurrentStack(nn.Module):
    """L layers of one cell. `forward(x_TBE, state) -> y_TBH, state after the last step`."""

    state_names: ClassVar[tuple[str, ...]]

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.shape = shape

    def initial_state(self, num_lanes: int, device: torch.device) -> State:
        """Zeros: the state before any token."""
        size = (self.shape.num_layers, num_lanes, self.shape.hidden_size)
        return tuple(torch.zeros(size, device=device) for _ in self.state_names)

    def forward(self, x_TBE: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        raise NotImplementedError

    def _layer_dropout(self) -> float:
        return self.shape.dropout if self.shape.num_layers > 1 else 0.0


class LSTMStack(RecurrentStack):
    """LSTM with a forget gate (Gers et al. 2000), s the logistic function, * the element-wise product:

    i, f, o = s(W x_t + U h_{t-1} + b) each,  g = tanh(W_g x_t + U_g h_{t-1} + b_g)
    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)

    The forget gate starts with bias 1, so that a fresh network remembers (Jozefowicz et al. 2015).
    """

    state_names = ("h", "c")

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape)
        self.layers = nn.LSTM(shape.input_size, shape.hidden_size, shape.num_layers, dropout=self._layer_dropout())
        forget = slice(shape.hidden_size, 2 * shape.hidden_size)  # torch orders the gates i, f, g, o
        with torch.no_grad():
            for layer in range(shape.num_layers):
                getattr(self.layers, f"bias_ih_l{layer}")[forget].fill_(1.0)
                getattr(self.layers, f"bias_hh_l{layer}")[forget].zero_()

    def forward(self, x_TBE: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        h_LBH, c_LBH = state
        y_TBH, (h_LBH, c_LBH) = self.layers(x_TBE, (h_LBH.to(x_TBE.dtype), c_LBH.to(x_TBE.dtype)))
        return y_TBH, (h_LBH, c_LBH)


class GRUStack(RecurrentStack):
    """GRU in the cuDNN form, whose reset gate acts after the recurrent product:

    r, z = s(W x_t + U h_{t-1} + b) each,  n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + b'_n))
    h_t = (1 - z) * n + z * h_{t-1}
    """

    state_names = ("h",)

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape)
        self.layers = nn.GRU(shape.input_size, shape.hidden_size, shape.num_layers, dropout=self._layer_dropout())

    def forward(self, x_TBE: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        y_TBH, h_LBH = self.layers(x_TBE, state[0].to(x_TBE.dtype))
        return y_TBH, (h_LBH,)


CELLS: dict[str, type[RecurrentStack]] = {"lstm": LSTMStack, "gru": GRUStack}
