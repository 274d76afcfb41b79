"""Ways of leaving things out while training: units anew at every step, units for a whole segment, weights, words.

Each is the identity outside training and for a share of 0, and draws nothing then. Legend: T steps, B lanes, X width.
"""

import torch
from torch.nn import functional


def drop_units(x_TBX: torch.Tensor, share: float, *, is_locked: bool, is_training: bool) -> torch.Tensor:
    """Zeroes a share of the units, scales the rest. Locked: one mask [1,B,X] for all steps (Gal & Ghahramani 2016)."""
    if not is_training or share == 0.0:
        return x_TBX
    if not is_locked:
        return functional.dropout(x_TBX, share)
    return x_TBX * functional.dropout(torch.ones_like(x_TBX[:1]), share)


def drop_weights(weight: torch.Tensor, share: float, *, is_training: bool) -> torch.Tensor:
    """DropConnect: single weights, the same ones at every step of the call (Wan et al. 2013, Merity et al. 2017)."""
    return functional.dropout(weight, share) if is_training and share > 0.0 else weight


def drop_words(weight_VX: torch.Tensor, share: float, *, is_training: bool) -> torch.Tensor:
    """Whole rows of an embedding matrix, so that a word is missing wherever it stands (Gal & Ghahramani 2016)."""
    if not is_training or share == 0.0:
        return weight_VX
    return weight_VX * functional.dropout(torch.ones_like(weight_VX[:, :1]), share)
