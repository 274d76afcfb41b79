"""The state of the lanes: one array per state tensor with a row per lane, and one of last hidden vectors.

Written and read by the runner's thread alone. Legend: B rows of a batch, H hidden width.
"""

from collections.abc import Sequence

import numpy as np

from carousel.bundle.layout import Array, StateBatch, StateLayout
from carousel.turns import Snapshot


class LaneStates:
    """Rows for `num_lanes` sequences."""

    def __init__(self, layout: StateLayout, hidden_size: int, num_lanes: int) -> None:
        self._tensors = layout.initial(num_lanes)
        self.hidden = np.zeros((num_lanes, hidden_size), np.float32)

    def load(self, lane: int, snapshot: Snapshot) -> None:
        """Put a sequence onto a lane."""
        for tensor, value in zip(self._tensors, snapshot.state, strict=True):
            tensor[lane] = value
        self.hidden[lane] = snapshot.hidden_H

    def save(self, lane: int) -> tuple[tuple[Array, ...], Array]:
        """The opposite of `load`: copies of the lane's state and hidden vector."""
        return tuple(tensor[lane].copy() for tensor in self._tensors), self.hidden[lane].copy()

    def gather(self, lanes: Sequence[int]) -> StateBatch:
        """A batch whose row b is lanes[b]."""
        rows = np.asarray(lanes)
        return tuple(tensor[rows] for tensor in self._tensors)

    def scatter(self, lanes: Sequence[int], batch: StateBatch, hidden_BH: Array) -> None:
        """The opposite of `gather`, with the hidden vectors that came along."""
        rows = np.asarray(lanes)
        for tensor, values in zip(self._tensors, batch, strict=True):
            tensor[rows] = values
        self.hidden[rows] = hidden_BH
