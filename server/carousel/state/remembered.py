"""What is remembered for a while of things that are over, within a bound for each owner and one for all."""

import collections
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Remembered(Generic[Item]):
    """Items by owner and name; beyond a bound the oldest are forgotten, an owner's own or, at last, anybody's."""

    def __init__(self, max_per_owner: int, max_all: int) -> None:
        self._max_per_owner = max_per_owner
        self._max_all = max_all
        self._items: collections.OrderedDict[tuple[str, str], Item] = collections.OrderedDict()
        self._names: dict[str, collections.OrderedDict[str, None]] = {}  # of each owner, oldest first

    def __repr__(self) -> str:
        return f"Remembered({len(self._items)} of {len(self._names)} owners)"

    def __len__(self) -> int:
        return len(self._items)

    def get(self, owner: str, name: str) -> Item | None:
        return self._items.get((owner, name))

    def put(self, owner: str, name: str, item: Item) -> None:
        self.drop(owner, name)
        self._items[owner, name] = item
        names = self._names.setdefault(owner, collections.OrderedDict())
        names[name] = None
        if len(names) > self._max_per_owner:
            self.drop(owner, next(iter(names)))
        if len(self._items) > self._max_all:
            self.drop(*next(iter(self._items)))

    def drop(self, owner: str, name: str) -> None:
        if self._items.pop((owner, name), None) is None:
            return
        names = self._names[owner]
        del names[name]
        if not names:
            del self._names[owner]

    def oldest(self) -> Item | None:
        return next(iter(self._items.values()), None)

    def items(self) -> list[Item]:
        """Oldest first."""
        return list(self._items.values())
