"""The named tensors of one sequence's state, and how rows of them are stacked into a batch.

Names, shapes and types come from the bundle's manifest; no other code spells a tensor's name.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
State = tuple[Array, ...]  # one sequence: an array per tensor, in the layout's order, without a batch axis


class Rows(Protocol):
    """An array, or an object that behaves like one: rows that are stored elsewhere and fetched on access."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def __array__(self) -> Array: ...

    def reshape(self, shape: tuple[int, int], /) -> Any: ...


MAX_STATE_BYTES = 2**31 - 1  # of one sequence; the wire's limit
StateBatch = tuple[Rows, ...]  # the same with a leading axis B


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor of the state. `shape` has no batch axis; the graph's shape starts with it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    initial: float = 0.0

    @property
    def output_name(self) -> str:
        """The core graph's name of the tensor's next value."""
        return f"{self.name}_next"

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class StateLayout:
    """All tensors of the state in a fixed order."""

    tensors: tuple[StateTensor, ...]

    @property
    def num_bytes(self) -> int:
        """The raw size of one sequence's state."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def initial(self, num_rows: int) -> StateBatch:
        """Returns the state before any token, for `num_rows` sequences."""
        return tuple(np.full((num_rows, *t.shape), t.initial, dtype=t.dtype) for t in self.tensors)

    def stack(self, states: Sequence[State]) -> StateBatch:
        """Stacks B states into one batch, row b being states[b]."""
        return tuple(np.stack(rows) for rows in zip(*states, strict=True))

    def unstack(self, batch: StateBatch) -> list[State]:
        """The inverse of `stack`. Each row is a separate copy, so keeping one does not keep the batch."""
        num_rows = batch[0].shape[0]
        return [tuple(array[row].copy() for array in batch) for row in range(num_rows)]

    def feed(self, batch: StateBatch) -> dict[str, Rows]:
        """Returns the batch under the names of the core graph's inputs."""
        return {tensor.name: array for tensor, array in zip(self.tensors, batch, strict=True)}

    def output_names(self) -> list[str]:
        return [tensor.output_name for tensor in self.tensors]

    def as_json(self) -> list[dict[str, Any]]:
        return [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "initial": t.initial} for t in self.tensors]

    @classmethod
    def from_json(cls, items: Iterable[Mapping[str, Any]]) -> "StateLayout":
        """Raises KeyError, TypeError, ValueError or OverflowError for items that describe no tensors."""
        layout = cls(tuple(_read_tensor(item) for item in items))
        if layout.num_bytes > MAX_STATE_BYTES:
            raise ValueError(f"a state of {layout.num_bytes} bytes; at most {MAX_STATE_BYTES}")
        return layout


def _read_tensor(item: Mapping[str, Any]) -> StateTensor:
    tensor = StateTensor(item["name"], tuple(int(n) for n in item["shape"]), item["dtype"], float(item["initial"]))
    if not isinstance(tensor.name, str) or min(tensor.shape, default=1) < 1:
        raise ValueError(f"state tensor {tensor.name!r} of shape {tensor.shape}")
    if not isinstance(tensor.dtype, str) or np.dtype(tensor.dtype).kind not in "biuf":
        raise ValueError(f"state tensor {tensor.name} of type {tensor.dtype}")
    return tensor
