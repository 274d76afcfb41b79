"""A heap of hints, some outdated, cleaned in small steps: cleaning all at once would delay every caller."""

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=tuple[Any, ...])

_NUM_TIDIED = 4
_SLACK = 64


class TidyHeap(Generic[Item]):
    """Items, the smallest first. A caller that makes an item outdated calls `tidy` once for it: then the heap keeps at
    most about as many outdated items as valid ones."""

    def __init__(self) -> None:
        self._old: list[Item] = []  # a heap that is checked from its end
        self._new: list[Item] = []  # a heap of checked and of newer items

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
        """Cleans a few items when more than `num_good` are kept. `renew` returns an item's current form, or None when
        it is outdated."""
        if len(self) <= num_good + _SLACK:
            return
        for _ in range(_NUM_TIDIED):
            if not self._old:
                self._old, self._new = self._new, self._old
            item = renew(self._old.pop())  # the last item of a heap can be removed
            if item is not None:
                self.push(item)

    def _first(self) -> list[Item]:
        """Returns the heap with the smallest item."""
        return self._old if self._old and not (self._new and self._new[0] < self._old[0]) else self._new
