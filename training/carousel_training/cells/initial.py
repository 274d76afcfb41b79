"""This module initialises the weights of every cell by one rule, so cells differ by their equations alone.

Inputs have unit scale, and their weighted sum has unit variance; the sum over the layer's own state is smaller. Biases
are zero, except in gates that keep the state: there they start at 1 (a share of 0.73 is kept), so a fresh network
remembers (Jozefowicz et al. 2015). Legend: G rows of gates, X input width, H hidden width.
"""

import math

import torch
from torch import nn

KEEPING_BIAS = 1.0


@torch.no_grad()
def initialise_input(weight_GX: torch.Tensor) -> None:
    """Draws from a uniform distribution with the variance 1 / X."""
    bound = math.sqrt(3.0 / weight_GX.shape[1])
    nn.init.uniform_(weight_GX, -bound, bound)


@torch.no_grad()
def initialise_state(weight_GH: torch.Tensor) -> None:
    """Draws uniformly from +-1 / sqrt(H), a third of the variance 1 / H, for gated cells."""
    bound = 1.0 / math.sqrt(weight_GH.shape[1])
    nn.init.uniform_(weight_GH, -bound, bound)


@torch.no_grad()
def initialise_orthogonal(weight_HH: torch.Tensor) -> None:
    """Draws an orthogonal matrix, which keeps the length of a state, for cells without gates (Saxe et al. 2014)."""
    nn.init.orthogonal_(weight_HH)
