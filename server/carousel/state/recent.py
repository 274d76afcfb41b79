"""A cache of recently used items, bounded in bytes. It only adds speed: it may lose any item."""

import collections
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Recent(Generic[Item]):
    """Items by session; the least recently used are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: collections.OrderedDict[Hashable, tuple[Item, int]] = collections.OrderedDict()
        self._num_bytes = 0

    def __repr__(self) -> str:
        return f"Recent({len(self._items)} items, {self._num_bytes} of {self._max_bytes} bytes)"

    def get(self, key: Hashable) -> Item | None:
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, item: Item, num_bytes: int) -> None:
        self.drop(key)
        self._items[key] = (item, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            self.drop(next(iter(self._items)))

    def drop(self, key: Hashable) -> None:
        _, num_bytes = self._items.pop(key, (None, 0))
        self._num_bytes -= num_bytes

    def clear(self) -> None:
        self._items.clear()
        self._num_bytes = 0
