"""Kinds of dropout in training: units anew at every step, units for a whole segment, weights, words.

Each is the identity outside training and for a share of 0, and draws nothing then. Legend: T steps, B lanes, X width.
"""

import torch
from torch.nn import functional


def drop_units(x_TBX: torch.Tensor, share: float, *, is_locked: bool, is_training: bool) -> torch.Tensor:
    """Zeroes a share of the units and scales the rest. `is_locked`: one mask [1,B,X] for all steps (Gal & Ghahramani
    2016)."""
    if not is_training or share == 0.0:
        return x_TBX
    return x_TBX * _mask(x_TBX[:1] if is_locked else x_TBX, share)


def drop_weights(weight: torch.Tensor, share: float, *, is_training: bool) -> torch.Tensor:
    """Applies DropConnect: single weights, the same at every step of a call (Wan et al. 2013, Merity et al. 2017)."""
    return weight * _mask(weight, share) if is_training and share > 0.0 else weight


def drop_words(weight_VX: torch.Tensor, share: float, *, is_training: bool) -> torch.Tensor:
    """Drops whole rows of an embedding matrix, so that a word is missing everywhere (Gal & Ghahramani 2016)."""
    if not is_training or share == 0.0:
        return weight_VX
    return weight_VX * _mask(weight_VX[:, :1], share)


def _mask(like: torch.Tensor, share: float) -> torch.Tensor:
    """Draws zeros and, with a chance of 1 - share, the inverse of that chance.

    On a CPU torch draws a random number for each value, on one core, which costs a sixth of a step and more. Here four
    values share a random number, to the nearest 1 / 65536.
    """
    if like.device.type != "cpu":
        return functional.dropout(torch.ones_like(like), share)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.int16)[: like.numel()].view(like.shape)
    return (drawn >= min(round(share * 65536), 65535) - 32768).to(like.dtype).mul_(1.0 / (1.0 - share))
