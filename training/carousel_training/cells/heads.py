"""Vectors and block-diagonal matrices by head.

A matrix with N blocks along its diagonal is stored as its rows without the zeros, [k x H,D]: for each of k gates the
rows of head 0, then head 1, and so on. Legend: B lanes, N heads, D the width of a head, H = N x D, k gates, K = k x D.
"""

import torch

Tensor = torch.Tensor


def to_heads(values: Tensor, num_heads: int, num_gates: int = 1) -> Tensor:
    """Returns [..., B, k x H] as [..., N, B, K], a view where k is 1."""
    by_gate = torch.unflatten(values, -1, (num_gates, num_heads, -1))  # [..., B, k, N, D]
    return by_gate.movedim(-2, -4).flatten(-2)


def from_heads(values: Tensor, num_gates: int = 1) -> Tensor:
    """Reverses `to_heads`."""
    by_gate = torch.unflatten(values, -1, (num_gates, -1))  # [..., N, B, k, D]
    return by_gate.movedim(-4, -2).flatten(-3)


def block_columns(weight: Tensor, num_heads: int, num_gates: int) -> Tensor:
    """Returns the blocks as they multiply vectors from the right, [N,D,K]."""
    blocks_GNED = torch.unflatten(weight, 0, (num_gates, num_heads, -1))
    return blocks_GNED.permute(1, 3, 0, 2).flatten(2)


def block_product(h_BH: Tensor, weight: Tensor, num_heads: int, num_gates: int) -> Tensor:
    """Returns the matrix times the vector, [B,k x H], by the written equation."""
    by_head_BND = torch.unflatten(h_BH, 1, (num_heads, -1))
    blocks_GNED = torch.unflatten(weight, 0, (num_gates, num_heads, -1))
    return torch.einsum("bnd,gned->bgne", by_head_BND, blocks_GNED).flatten(1)
