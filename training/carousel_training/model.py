"""This module is the language model: embedding, recurrent stack, output layer. It knows no text, optimiser or file.

Legend: B lanes, T steps, E embedding width, H hidden width, V vocabulary, N rows of hidden vectors.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from carousel.bundle.layout import StateLayout
from carousel_training.cells.dropout import drop_units, drop_words
from carousel_training.cells.registry import build_stack
from carousel_training.cells.stack import RecurrentStack, StackShape, State
from carousel_training.output_loss import output_loss
from carousel_training.sampled_softmax import Negatives, sampled_loss
from carousel_training.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that rebuilding the network needs, under the names of the settings.

    A field with a default did not exist in the first checkpoints, and its default switches it off. `dropout` is the
    share of every place without a share of its own.
    """

    vocabulary_size: int
    cell: str
    num_layers: int
    hidden_size: int
    embedding_size: int
    tied: bool
    dropout: float
    locked_dropout: bool = False
    input_dropout: float | None = None
    layer_dropout: float | None = None
    output_dropout: float | None = None
    embedding_dropout: float = 0.0
    weight_drop: float = 0.0
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    window: int = 8
    num_clocks: int = 4
    num_heads: int = 4
    block: str = "plain"
    mlp_expansion: int = 3

    @classmethod
    def from_settings(cls, settings: ModelSettings, vocabulary_size: int) -> "ModelConfig":
        return cls(vocabulary_size=vocabulary_size, **settings.model_dump())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def stack_shape(self) -> StackShape:
        return StackShape(
            input_size=self.embedding_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            dropout=_share(self.layer_dropout, self.dropout),
            is_locked=self.locked_dropout,
            weight_drop=self.weight_drop,
            window=self.window,
            num_clocks=self.num_clocks,
            num_heads=self.num_heads,
            mlp_expansion=self.mlp_expansion,
        )


class Objective(NamedTuple):
    """The loss of a segment: mean nats over the targets, and the penalty that keeps activations small."""

    nats: torch.Tensor
    penalty: torch.Tensor
    state: State


class RecurrentLM(nn.Module):
    """Predicts the next token from all tokens before it, which the state summarises."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self.stack: RecurrentStack = build_stack(config.cell, config.block, config.stack_shape())
        needs_projection = config.tied and config.embedding_size != config.hidden_size
        self.projection = nn.Linear(config.hidden_size, config.embedding_size) if needs_projection else None
        self.own_output = None if config.tied else nn.Parameter(torch.empty(config.vocabulary_size, config.hidden_size))
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self._initialise()

    def _initialise(self) -> None:
        """Starts with inputs of unit scale, which the cells' rule expects, and small logits. For a tied matrix see
        `embedding_gain`.
        """
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_size**-0.5 if self.config.tied else 1.0)
        if self.own_output is not None:
            bound = 1.0 / math.sqrt(self.config.hidden_size)
            nn.init.uniform_(self.own_output, -bound, bound)

    @torch.no_grad()
    def begin_with_counts(self, counts_V: torch.Tensor) -> None:
        """Sets the output bias to the logarithm of each token's share, so that no hidden vector has to encode it.

        A token that does not occur counts as occurring once.
        """
        shares_V = counts_V.double().clamp_min(1.0) / counts_V.double().clamp_min(1.0).sum()
        self.output_bias.copy_(shares_V.log())

    @property
    def embedding_gain(self) -> float:
        """The factor of an embedding on its way into the stack.

        The logits need a tied matrix at a scale of E^-1/2, the inputs at 1. E^1/4 lies between: AdamW lets the matrix
        grow some fourfold in its first steps, and with E^1/2 the gates would saturate then.
        """
        return float(self.config.embedding_size**0.25) if self.config.tied else 1.0

    @property
    def input_table(self) -> torch.Tensor:
        """[V, E]: the stack's input for each token."""
        return self.embedding.weight * self.embedding_gain

    @property
    def output_weight(self) -> torch.Tensor:
        """[V, E] if tied, otherwise [V, H]."""
        return self.embedding.weight if self.own_output is None else self.own_output

    @property
    def num_parameters(self) -> int:
        """The number of parameters that are trained and that some output depends on."""
        return (
            sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad) - self.stack.num_dead
        )

    @property
    def device(self) -> torch.device:
        return self.output_bias.device

    @property
    def state_layout(self) -> StateLayout:
        return self.stack.state_layout

    def initial_state(self, num_lanes: int) -> State:
        return self.stack.initial_state(num_lanes, self.device)

    def hidden(self, ids_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Returns hidden_TBH, time-major as the layers produce it, and the state after the last step."""
        y_TBH, state = self._run(ids_BT, state)
        return self._drop(y_TBH, self.config.output_dropout), state

    def embed(self, ids_SB: torch.Tensor) -> torch.Tensor:
        """Returns x_SBE. An id of -1, where there is no token yet, becomes a row of zeros."""
        weight_VE = drop_words(self.embedding.weight, self.config.embedding_dropout, is_training=self.training)
        if self.stack.num_context == 0:
            return functional.embedding(ids_SB, weight_VE) * self.embedding_gain
        is_token_SB1 = (ids_SB >= 0).to(weight_VE.dtype)[..., None]
        return functional.embedding(ids_SB.clamp_min(0), weight_VE) * (is_token_SB1 * self.embedding_gain)

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Returns logits_NV. Any number of leading axes may stand in place of N."""
        return functional.linear(self._features(hidden_NH), self.output_weight, self.output_bias)

    def forward(self, ids_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Returns logits_BTV of the token after each given one, and the state after the last."""
        hidden_TBH, state = self.hidden(ids_BT, state)
        return self.logits(hidden_TBH).transpose(0, 1), state

    def loss(self, ids_BT: torch.Tensor, targets_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Returns mean nats over the targets, and the state after the last step."""
        objective = self.objective(ids_BT, targets_BT, state)
        return objective.nats, objective.state

    def objective(
        self, ids_BT: torch.Tensor, targets_BT: torch.Tensor, state: State, negatives: Negatives | None = None
    ) -> Objective:
        """Returns loss and penalties of a segment. With `negatives` the loss is an estimate from them.

        The penalties act on activations after the output's dropout, and on changes from step to step before it (Merity
        et al. 2017).
        """
        y_TBH, state = self._run(ids_BT, state)
        dropped_TBH = self._drop(y_TBH, self.config.output_dropout)
        features_NE = self._features(dropped_TBH.flatten(0, 1))
        layer, targets_N = (self.output_weight, self.output_bias), targets_BT.t().flatten()
        if negatives is None:
            nats = output_loss(features_NE, *layer, targets_N)
        else:
            nats = sampled_loss(features_NE, *layer, targets_N, negatives)
        return Objective(nats, self._penalty(y_TBH, dropped_TBH), state)

    def _run(self, ids_BT: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        ids_SB, state = self.stack.remember(ids_BT.t(), state)
        y_TBH, state = self.stack(self._drop(self.embed(ids_SB), self.config.input_dropout), state)
        return y_TBH, state

    def _drop(self, x_TBX: torch.Tensor, share: float | None) -> torch.Tensor:
        share = _share(share, self.config.dropout)
        return drop_units(x_TBX, share, is_locked=self.config.locked_dropout, is_training=self.training)

    def _penalty(self, y_TBH: torch.Tensor, dropped_TBH: torch.Tensor) -> torch.Tensor:
        config, penalty = self.config, y_TBH.new_zeros((), dtype=torch.float32)
        if config.activation_penalty > 0.0:
            penalty = penalty + config.activation_penalty * dropped_TBH.float().pow(2).mean()
        if config.temporal_penalty > 0.0 and len(y_TBH) > 1:
            penalty = penalty + config.temporal_penalty * (y_TBH[1:] - y_TBH[:-1]).float().pow(2).mean()
        return penalty

    def _features(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        return hidden_NH if self.projection is None else self.projection(hidden_NH)


def detach(state: State) -> State:
    """Returns the same values without their history: back-propagation is truncated here."""
    return tuple(tensor.detach() for tensor in state)


def _share(own: float | None, otherwise: float) -> float:
    return otherwise if own is None else own
