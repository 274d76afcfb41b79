"""What each owner may use, and which owners use more than their share of a scarce resource.

A share is the limit divided by the owners that are present. A single owner may use all of it: shares matter only when
the resource has run out and another owner asks for it.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Protocol

from carousel.records import record
from carousel.tidy_heap import TidyHeap


@record(frozen=True, slots=True)
class OwnerLimits:
    """The most that one owner may use. None: no limit of its own."""

    max_sessions: int | None = None
    max_bytes: int | None = None  # of sessions
    max_calls: int | None = None  # open at once
    max_queued_turns: int | None = None
    max_lanes: int | None = None
    max_watches: int | None = None  # of the owner's session events

    def of(self, owner: str) -> "OwnerLimits":
        """Returns the limits of that owner: all have the same."""
        return self

    def over(self, others: "OwnerLimits") -> "OwnerLimits":
        """Returns these limits, and those of `others` where these have none."""
        return OwnerLimits(*(getattr(others, one) if mine is None else mine for one, mine in _pairs(self)))

    @property
    def own(self) -> Mapping[str, "OwnerLimits"]:
        return _NOBODY


def _pairs(limits: OwnerLimits) -> list[tuple[str, int | None]]:
    return [(one.name, getattr(limits, one.name)) for one in fields(limits)]


class LimitsByOwner(Protocol):
    """The limits of every owner. They may change at any time; any thread may ask."""

    def of(self, owner: str) -> OwnerLimits: ...

    @property
    def own(self) -> Mapping[str, OwnerLimits]:
        """The owners with limits of their own. There are few."""
        ...


_NOBODY: Mapping[str, OwnerLimits] = {}

_Hint = tuple[int, int, str]  # (-used, number of the last touch, owner) at some moment
_MAX_RENEWED = 64  # hints of owners touched since; among more equals, a touched owner may be chosen


class Shares:
    """How much of one thing each owner uses. Finding the largest user takes logarithmic time. Among equal users it is
    the one that was not touched for longest; an owner that uses more is touched."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}
        self._touched: dict[str, int] = {}  # numbers of touches, by owner
        self._touches = itertools.count()
        self._hints: dict[str, _Hint] = {}  # the valid hint of each owner in `_heap`: it is never too late in it
        self._heap: TidyHeap[_Hint] = TidyHeap()
        self.total = 0

    def __repr__(self) -> str:
        return f"Shares({self.total} used by {len(self._used)} owners)"

    @property
    def num_owners(self) -> int:
        return len(self._used)

    def used(self, owner: str) -> int:
        return self._used.get(owner, 0)

    def change(self, owner: str, amount: int) -> None:
        """Adds to the owner's use; a negative amount is returned, never more than the owner uses."""
        if not amount:
            return
        used = self._used.get(owner, 0) + amount
        assert used >= 0, f"an owner gives back {-amount} and has less"
        self.total += amount
        if used:
            self._used[owner] = used
            if amount > 0:
                self._touched[owner] = next(self._touches)
            if owner not in self._hints or used > -self._hints[owner][0]:
                self._hint(owner, used)
        else:
            del self._used[owner], self._hints[owner], self._touched[owner]
        self._heap.tidy(len(self._hints), self._renew)

    def touch(self, owner: str) -> None:
        """The owner is active: among equals it comes last."""
        if owner in self._used:
            self._touched[owner] = next(self._touches)

    def share(self, limit: int, owner: str) -> float:
        """Returns each present owner's share of `limit`; `owner` counts as present."""
        return limit / max(1, self.num_owners + (owner not in self._used))

    def largest(self, above: float = 0.0, accept: Callable[[str], bool] = lambda owner: True) -> str | None:
        """Returns the largest accepted user among the owners above `above`; None if there is none. Asks about owners
        from the largest on."""
        asked: list[_Hint] = []
        num_renewed = 0
        try:
            while (hint := self._heap.peek()) is not None and -hint[0] > above:
                self._heap.pop()
                owner = hint[2]
                if self._hints.get(owner) is not hint:
                    continue
                is_touched = self._touched[owner] > hint[1] and num_renewed < _MAX_RENEWED
                if self._used[owner] < -hint[0] or is_touched:
                    num_renewed += 1
                    self._hint(owner, self._used[owner])
                    continue
                asked.append(hint)
                if accept(owner):
                    return owner
            return None
        finally:
            for hint in asked:
                self._heap.push(hint)

    def above(self, share: float) -> list[str]:
        """Returns the owners that use more than `share`, the largest user first. Walks over all."""
        return sorted((one for one, used in self._used.items() if used > share), key=lambda one: -self._used[one])

    def _hint(self, owner: str, used: int) -> None:
        self._hints[owner] = hint = (-used, self._touched[owner], owner)
        self._heap.push(hint)

    def _renew(self, hint: _Hint) -> _Hint | None:
        return hint if self._hints.get(hint[2]) is hint else None
