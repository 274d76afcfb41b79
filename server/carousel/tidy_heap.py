"""A heap of hints, some out of date, cleared up bit by bit: to go over all of it at once would hold up everybody."""

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=tuple[Any, ...])

_NUM_TIDIED = 4
_SLACK = 64


class TidyHeap(Generic[Item]):
    """Items, the smallest first. Whoever makes items out of date calls `tidy` once for each: then about as many of them
    are kept as there are good ones, at most."""

    def __init__(self) -> None:
        self._old: list[Item] = []  # a heap that is looked through from its end
        self._new: list[Item] = []  # a heap of what was looked through, and of what came since

    def __repr__(self) -> str:
        return f"TidyHeap({len(self)} items)"

    def __len__(self) -> int:
        return len(self._old) + len(self._new)

    def push(self, item: Item) -> None:
        heapq.heappush(self._new, item)

    def peek(self) -> Item | None:
        first = self._first()
        return first[0] if first else None

    def pop(self) -> Item:
        return heapq.heappop(self._first())

    def tidy(self, num_good: int, renew: Callable[[Item], Item | None]) -> None:
        """A few steps on, where more than `num_good` are kept. `renew` says what an item should be, None of one that is
        out of date."""
        if len(self) <= num_good + _SLACK:
            return
        for _ in range(_NUM_TIDIED):
            if not self._old:
                self._old, self._new = self._new, self._old
            item = renew(self._old.pop())  # of a heap, the last may be taken away
            if item is not None:
                self.push(item)

    def _first(self) -> list[Item]:
        """The heap that has the smallest."""
        return self._old if self._old and not (self._new and self._new[0] < self._old[0]) else self._new
