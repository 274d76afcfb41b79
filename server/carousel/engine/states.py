"""The states of the lanes, kept in the batches in which the model last ran them.

Lanes that run together step after step stay one batch: the model's output is its next input. Rows are copied, and
fetched from a device, only when lanes join or leave. Only the engine's thread uses it. Legend: B rows of a batch, H
hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carousel.bundle.layout import Array, Rows, StateBatch
from carousel.turns import Snapshot


@dataclass(slots=True)
class _Batch:
    """A batch. Row b belongs to lanes[b], unless that lane has moved to another batch; `num_left` lanes have not."""

    lanes: tuple[int, ...]
    state: StateBatch
    hidden_BH: Rows
    num_left: int


class LaneStates:
    """The place of every lane's row."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[_Batch, int]] = {}

    def load(self, lane: int, snapshot: Snapshot) -> None:
        """Puts a sequence onto a lane."""
        state = tuple(np.asarray(array)[None] for array in snapshot.state)
        self._put((lane,), state, snapshot.hidden_H[None])

    def save(self, lane: int) -> tuple[tuple[Array, ...], Array]:
        """Returns copies of the lane's state and hidden vector."""
        batch, row = self._places[lane]
        return tuple(tensor[row].copy() for tensor in batch.state), batch.hidden_BH[row].copy()

    def gather(self, lanes: Sequence[int]) -> StateBatch:
        """Returns a batch whose row b is lanes[b]. The caller must not write to it."""
        batch = self._whole(lanes)
        if batch is not None:
            return batch.state
        places = [self._places[lane] for lane in lanes]
        num_tensors = len(places[0][0].state)
        return tuple(np.array([batch.state[index][row] for batch, row in places]) for index in range(num_tensors))

    def hidden(self, lanes: Sequence[int]) -> Rows:
        """Returns hidden_BH, whose row b is lanes[b]'s. The caller must not write to it."""
        batch = self._whole(lanes)
        if batch is not None:
            return batch.hidden_BH
        return np.array([batch.hidden_BH[row] for batch, row in map(self._places.__getitem__, lanes)])

    def scatter(self, lanes: Sequence[int], state: StateBatch, hidden_BH: Rows) -> None:
        """Stores the lanes' new states and hidden vectors. Keeps the arrays."""
        batch = self._whole(lanes)
        if batch is not None:
            batch.state, batch.hidden_BH = state, hidden_BH
            return
        self._put(tuple(lanes), state, hidden_BH)

    def _put(self, lanes: tuple[int, ...], state: StateBatch, hidden_BH: Rows) -> None:
        batch = _Batch(lanes, state, hidden_BH, num_left=len(lanes))
        for row, lane in enumerate(lanes):
            if (before := self._places.get(lane)) is not None:
                before[0].num_left -= 1
            self._places[lane] = (batch, row)

    def _whole(self, lanes: Sequence[int]) -> _Batch | None:
        """Returns the batch of exactly these lanes in this order, if there is one."""
        batch, _ = self._places[lanes[0]]
        return batch if batch.num_left == len(lanes) and batch.lanes == tuple(lanes) else None
