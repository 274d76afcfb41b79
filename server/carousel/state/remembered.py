"""Small items remembered for each owner, oldest first, within bounds: those beyond a bound are forgotten."""

import collections
from typing import Generic, TypeVar

from carousel.shares import Shares

Item = TypeVar("Item")


class Remembered(Generic[Item]):
    """Items by owner and name. Beyond a bound the oldest item goes: the owner's own, or that of the owner with the
    most, so that one owner's many items never push out another's."""

    def __init__(self, max_per_owner: int, max_in_all: int) -> None:
        self._max_per_owner = max_per_owner
        self._max_in_all = max_in_all
        self._items: collections.OrderedDict[tuple[str, str], Item] = collections.OrderedDict()
        self._names: dict[str, collections.OrderedDict[str, None]] = {}
        self._shares = Shares()

    def __repr__(self) -> str:
        return f"Remembered({len(self)} items of {len(self._names)} owners)"

    def __len__(self) -> int:
        return len(self._items)

    def get(self, owner: str, name: str) -> Item | None:
        return self._items.get((owner, name))

    def put(self, owner: str, name: str, item: Item) -> None:
        """Adds the item as the newest."""
        self.forget(owner, name)
        self._items[owner, name] = item
        names = self._names.setdefault(owner, collections.OrderedDict())
        names[name] = None
        self._shares.change(owner, 1)
        if len(names) > self._max_per_owner:
            self.forget(owner, next(iter(names)))
        if len(self._items) > self._max_in_all and (largest := self._shares.largest()) is not None:
            self.forget(largest, next(iter(self._names[largest])))

    def forget(self, owner: str, name: str) -> None:
        if self._items.pop((owner, name), None) is None:
            return
        names = self._names[owner]
        del names[name]
        self._shares.change(owner, -1)
        if not names:
            del self._names[owner]

    def oldest(self) -> Item | None:
        return next(iter(self._items.values()), None)

    def items(self) -> list[Item]:
        """Returns the items, oldest first."""
        return list(self._items.values())
