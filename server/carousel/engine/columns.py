"""The states of sequences held between turns, as rows of arrays. Each sequence has a ring of its last boundaries.

A turn that feeds one token is a row of a step and not an object: one gather, one run and one scatter serve all rows. It
reads the sequence's current row and writes the next row of its ring. So nothing has happened until the holder moves to
that row. Legend: A rows of a step, K candidates, H hidden width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from carousel.bundle.layout import Array, StateLayout
from carousel.engine.model import StepModel
from carousel.turns import Snapshot

_MAX_SLOTS = 8192
_FEW_CANDIDATES = 32
_MAX_SURPLUS = 4096  # unwanted candidates in a step; above this, two calls of the model are faster


class Waiter(Protocol):
    """Receives one row's answer, in the event loop. An asyncio.Future is a Waiter."""

    def done(self) -> bool:
        """Whether the caller has stopped waiting."""
        ...

    def set_result(self, found: Any, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


class Advances:
    """Single tokens for held sequences, with one list for each fact that a step needs."""

    __slots__ = ("ids", "next_rows", "num_candidates", "rows", "waiters")

    def __init__(self) -> None:
        self.rows: list[int] = []  # each sequence's current row
        self.next_rows: list[int] = []  # its row after the step
        self.ids: list[int] = []
        self.num_candidates: list[int] = []
        self.waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int, next_row: int, token_id: int, num_candidates: int, waiter: Waiter) -> None:
        self.rows.append(row)
        self.next_rows.append(next_row)
        self.ids.append(token_id)
        self.num_candidates.append(num_candidates)
        self.waiters.append(waiter)

    def extend(self, others: "Advances", start: int = 0, stop: int | None = None) -> None:
        """Adds the tokens of `others` from `start` to `stop`."""
        for name in self.__slots__:
            getattr(self, name).extend(getattr(others, name)[start:stop])

    def without_first(self, count: int) -> "Advances":
        rest = Advances()
        rest.extend(self, count)
        return rest


class Found(NamedTuple):
    """A step's results, in the order of its rows."""

    ids_AK: Sequence[list[int]]
    log_probs_AK: Sequence[list[float]]
    is_finite_A: Sequence[bool]


class Columns:
    """The arrays, with as many slots of `ring_size` rows as fit into `max_bytes`. Memory of unused slots is never
    touched. The event loop loads and saves rows only in slots that no step uses."""

    def __init__(self, layout: StateLayout, hidden_size: int, ring_size: int, max_bytes: int) -> None:
        self.ring_size = ring_size
        self.slot_bytes = ring_size * (layout.num_bytes + 4 * hidden_size)
        self.num_slots = min(_MAX_SLOTS, max_bytes // self.slot_bytes)
        num_rows = self.num_slots * ring_size
        self._state = tuple(np.zeros((num_rows, *one.shape), one.dtype) for one in layout.tensors)
        self._hidden = np.zeros((num_rows, hidden_size), np.float32)
        self._free = list(range(self.num_slots - 1, -1, -1))

    def __repr__(self) -> str:
        return f"Columns({self.num_slots - len(self._free)} of {self.num_slots} slots used)"

    @property
    def num_used(self) -> int:
        return self.num_slots - len(self._free)

    def allocate_slot(self) -> int | None:
        """Takes a slot. Returns its first row, or None when all are used."""
        return self._free.pop() * self.ring_size if self._free else None

    def free_slot(self, first_row: int) -> None:
        """Frees the slot, which no step may use any more."""
        self._free.append(first_row // self.ring_size)

    def load(self, row: int, snapshot: Snapshot) -> None:
        for array, value in zip(self._state, snapshot.state, strict=True):
            array[row] = value
        self._hidden[row] = snapshot.hidden_H

    def save(self, row: int) -> tuple[tuple[Array, ...], Array]:
        """Returns the row's state and hidden vector, as views: valid until the row is written again."""
        return tuple(array[row] for array in self._state), self._hidden[row]

    def run(self, model: StepModel, step: Advances) -> Found:
        """Feeds every row its token. Each row gets at least as many candidates as it wants."""
        rows_A, next_A = np.array(step.rows), np.array(step.next_rows)
        ids_A1 = np.array(step.ids, np.int64)[:, None]
        hidden_A1H, after = model.core(ids_A1, np.ones(len(step), np.int32), tuple(s[rows_A] for s in self._state))
        hidden_AH = np.asarray(hidden_A1H)[:, 0]
        for array, rows in zip(self._state, after, strict=True):
            array[next_A] = rows
        self._hidden[next_A] = hidden_AH
        ids_AK, log_probs_AK = _find(model, hidden_AH, step.num_candidates)
        best_A = [log_probs_K[0] for log_probs_K in log_probs_AK]
        is_finite_A = np.isfinite(hidden_AH.sum(axis=1) + best_A)  # one NaN or infinity makes the sum so too
        return Found(ids_AK, log_probs_AK, is_finite_A.tolist())


def _find(model: StepModel, hidden_AH: Array, wanted_A: Sequence[int]) -> tuple[list[list[int]], list[list[float]]]:
    """Returns ids and log-probabilities. Rows that want many candidates run apart, so that the others' run stays
    short."""
    most = max(wanted_A)
    are_alike = most <= _FEW_CANDIDATES or min(wanted_A) > _FEW_CANDIDATES
    if are_alike or most * len(wanted_A) - sum(wanted_A) <= _MAX_SURPLUS:
        found = model.candidates(hidden_AH, most)
        return found.ids_NK.tolist(), found.log_probs_NK.tolist()
    ids_AK: list[list[int]] = [[]] * len(wanted_A)
    log_probs_AK: list[list[float]] = [[]] * len(wanted_A)
    wants_many_A = np.array(wanted_A) > _FEW_CANDIDATES
    for rows in (np.flatnonzero(~wants_many_A).tolist(), np.flatnonzero(wants_many_A).tolist()):
        part = _find(model, hidden_AH[rows], [wanted_A[row] for row in rows])
        for row, ids_K, log_probs_K in zip(rows, *part, strict=True):
            ids_AK[row], log_probs_AK[row] = ids_K, log_probs_K
    return ids_AK, log_probs_AK
