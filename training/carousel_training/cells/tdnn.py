"""This module is the time-delay network, a feed-forward language model over a fixed window (Bengio et al. 2003)."""

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateLayout, StateTensor
from carousel_training.cells.dropout import drop_units
from carousel_training.cells.initial import initialise_input
from carousel_training.cells.stack import RecurrentStack, StackShape, State, Step

WINDOW = "window"


class TimeDelayStack(RecurrentStack):
    """Computes over a window of n tokens, with x_t [X] the embedding of the last, W [H, n x X], each V [H,H]:

    h_t^1 = tanh(W [x_{t-n+1}, ..., x_t] + b),  h_t^l = tanh(V h_t^{l-1} + b^l) in the layers above

    The state is the last n - 1 tokens, -1 where there is none yet. The embedding of -1 is zero.
    """

    learning_rate = 2e-3

    def __init__(self, shape: StackShape) -> None:
        super().__init__(shape)
        widths = [shape.window * shape.input_size] + [shape.hidden_size] * (shape.num_layers - 1)
        self.layers = nn.ModuleList(nn.Linear(width, shape.hidden_size) for width in widths)
        for layer in self.linear_layers():
            initialise_input(layer.weight)
            nn.init.zeros_(layer.bias)

    def linear_layers(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def num_context(self) -> int:
        return self.shape.window - 1

    @property
    def state_layout(self) -> StateLayout:
        if self.num_context == 0:
            return StateLayout(())
        return StateLayout((StateTensor(WINDOW, (self.num_context,), "int64", -1.0),))

    def remember(self, ids_TB: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        if not state:
            return ids_TB, state
        ids_SB = torch.cat([state[0].t(), ids_TB])
        return ids_SB, (ids_SB[len(ids_SB) - self.num_context :].t(),)

    def forward(self, x_SBX: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        return list(self._outputs(x_SBX))[-1], state

    def step(self, x_SBX: torch.Tensor, state: State) -> Step:
        was_training = self.training
        outputs = list(self.eval()._outputs(x_SBX))
        self.train(was_training)
        return Step(outputs[-1][0], state, {f"h_{layer}": y_TBH[0] for layer, y_TBH in enumerate(outputs)})

    def _outputs(self, x_SBX: torch.Tensor) -> list[torch.Tensor]:
        """Returns y_TBH of every layer."""
        shape, outputs = self.shape, list[torch.Tensor]()
        num_steps = len(x_SBX) - self.num_context
        y_TBX = torch.cat([x_SBX[delay : delay + num_steps] for delay in range(shape.window)], dim=2)
        for index, layer in enumerate(self.linear_layers()):
            if index > 0:
                y_TBX = drop_units(y_TBX, shape.dropout, is_locked=shape.is_locked, is_training=self.training)
            y_TBX = torch.tanh(functional.linear(y_TBX, layer.weight, layer.bias))
            outputs.append(y_TBX)
        return outputs
