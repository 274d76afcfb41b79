"""The language model: embedding, recurrent stack, output layer. It knows no text, no optimiser and no files.

Legend: B lanes, T steps, E embedding width, H hidden width, V vocabulary, N rows of hidden vectors.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from carousel_training.cells import CELLS, StackShape, State
from carousel_training.output_loss import output_loss
from carousel_training.settings import ModelSettings

EMBEDDING_RANGE = 0.1  # uniform in +-0.1 keeps the first logits small, as in Zaremba et al. 2014


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All that is needed to build the network again. `dropout` acts on inputs, between layers and on outputs."""

    vocabulary_size: int
    cell: str
    num_layers: int
    hidden_size: int
    embedding_size: int
    tied: bool
    dropout: float

    @classmethod
    def from_settings(cls, settings: ModelSettings, vocabulary_size: int) -> "ModelConfig":
        return cls(vocabulary_size=vocabulary_size, **settings.model_dump())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RecurrentLM(nn.Module):
    """Predicts the next token from all before it, which the state sums up."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        shape = StackShape(config.embedding_size, config.hidden_size, config.num_layers, config.dropout)
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self.stack = CELLS[config.cell](shape)
        needs_projection = config.tied and config.embedding_size != config.hidden_size
        self.projection = nn.Linear(config.hidden_size, config.embedding_size) if needs_projection else None
        self.own_output = None if config.tied else nn.Parameter(torch.empty(config.vocabulary_size, config.hidden_size))
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        if self.own_output is not None:
            bound = 1.0 / math.sqrt(self.config.hidden_size)
            nn.init.uniform_(self.own_output, -bound, bound)

    @property
    def output_weight(self) -> torch.Tensor:
        """[V, E] where tied, else [V, H]."""
        return self.embedding.weight if self.own_output is None else self.own_output

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        return self.output_bias.device

    def initial_state(self, num_lanes: int) -> State:
        return self.stack.initial_state(num_lanes, self.device)

    def hidden(self, ids_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """hidden_TBH, time-major as the layers produce it, and the state after the last step."""
        x_TBE = self.dropout(self.embedding(ids_BT.t()))
        y_TBH, state = self.stack(x_TBE, state)
        return self.dropout(y_TBH), state

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """logits_NV; any number of leading axes in place of N."""
        return functional.linear(self._features(hidden_NH), self.output_weight, self.output_bias)

    def forward(self, ids_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """logits_BTV of the token after each given one, and the state after the last."""
        hidden_TBH, state = self.hidden(ids_BT, state)
        return self.logits(hidden_TBH).transpose(0, 1), state

    def loss(self, ids_BT: torch.Tensor, targets_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Mean nats over the targets, and the state after the last step."""
        hidden_TBH, state = self.hidden(ids_BT, state)
        features_NE = self._features(hidden_TBH.flatten(0, 1))
        targets_N = targets_BT.t().flatten()
        return output_loss(features_NE, self.output_weight, self.output_bias, targets_N), state

    def _features(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        return hidden_NH if self.projection is None else self.projection(hidden_NH)


def detach(state: State) -> State:
    """The same values, cut from the graph that made them: where back-propagation is truncated."""
    return tuple(tensor.detach() for tensor in state)
