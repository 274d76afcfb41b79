"""The start of every cell's weights: one rule, so that cells differ by their equations and not by their start.

Inputs have unit scale, and a sum over them has unit variance; a unit gets less from its own layer's state. Biases are
zero, except those of gates that keep: these begin at 1 (a share of 0.73 is kept), so that a fresh network remembers
(Jozefowicz et al. 2015). Legend: G rows of gates, X input width, H hidden width.
"""

import math

import torch
from torch import nn

KEEPING_BIAS = 1.0


@torch.no_grad()
def initialise_input(weight_GX: torch.Tensor) -> None:
    """Draws uniformly with the variance 1 / X."""
    bound = math.sqrt(3.0 / weight_GX.shape[1])
    nn.init.uniform_(weight_GX, -bound, bound)


@torch.no_grad()
def initialise_state(weight_GH: torch.Tensor) -> None:
    """For gated cells: draws uniformly in +-1 / sqrt(H), a third of that variance."""
    bound = 1.0 / math.sqrt(weight_GH.shape[1])
    nn.init.uniform_(weight_GH, -bound, bound)


@torch.no_grad()
def initialise_orthogonal(weight_HH: torch.Tensor) -> None:
    """Draws an orthogonal matrix, which keeps the length of a state, for cells without gates (Saxe et al. 2014)."""
    nn.init.orthogonal_(weight_HH)
