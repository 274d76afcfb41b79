"""The states of the lanes, kept in the batches that the model last ran them in.

Lanes that run together step after step stay one batch: what the model put out is what it is given next, and rows are
copied, and fetched where they lie on a device, only when lanes join or leave. Used by the engine's thread alone.
Legend: B rows of a batch, H hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carousel.bundle.layout import Array, Rows, StateBatch
from carousel.turns import Snapshot


@dataclass(slots=True)
class _Batch:
    """Row b belongs to lanes[b], unless the lane has moved on to another batch since; `num_left` have not."""

    lanes: tuple[int, ...]
    state: StateBatch
    hidden_BH: Rows
    num_left: int


class LaneStates:
    """Where every lane's row is."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[_Batch, int]] = {}

    def load(self, lane: int, snapshot: Snapshot) -> None:
        """Put a sequence onto a lane."""
        state = tuple(np.asarray(array)[None] for array in snapshot.state)
        self._put((lane,), state, snapshot.hidden_H[None])

    def save(self, lane: int) -> tuple[tuple[Array, ...], Array]:
        """The opposite of `load`: copies of the lane's state and hidden vector."""
        batch, row = self._places[lane]
        return tuple(tensor[row].copy() for tensor in batch.state), batch.hidden_BH[row].copy()

    def gather(self, lanes: Sequence[int]) -> StateBatch:
        """A batch whose row b is lanes[b]; not to be written to."""
        batch = self._whole(lanes)
        if batch is not None:
            return batch.state
        places = [self._places[lane] for lane in lanes]
        num_tensors = len(places[0][0].state)
        return tuple(np.array([batch.state[index][row] for batch, row in places]) for index in range(num_tensors))

    def hidden(self, lanes: Sequence[int]) -> Rows:
        """hidden_BH, row b of lanes[b]; not to be written to."""
        batch = self._whole(lanes)
        if batch is not None:
            return batch.hidden_BH
        return np.array([batch.hidden_BH[row] for batch, row in map(self._places.__getitem__, lanes)])

    def scatter(self, lanes: Sequence[int], state: StateBatch, hidden_BH: Rows) -> None:
        """The opposite of `gather`, with the hidden vectors that came along. The arrays are kept."""
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
        """The batch that consists of just these lanes in this order, if there is one."""
        batch, _ = self._places[lanes[0]]
        return batch if batch.num_left == len(lanes) and batch.lanes == tuple(lanes) else None
