"""What each owner may use, and who uses more than his share of something that is short.

A share is the limit divided by the owners that are present. An owner alone may use all of it: shares matter only where
something has run out and somebody else asks for it.
"""

import heapq

from carousel.records import record


@record(frozen=True, slots=True)
class OwnerLimits:
    """The most that one owner may use. None: as much as there is."""

    max_sessions: int | None = None
    max_bytes: int | None = None  # of sessions
    max_calls: int | None = None  # open at once
    max_queued_turns: int | None = None
    max_lanes: int | None = None


class Shares:
    """How much of one thing each owner uses. Finding the largest user costs a logarithm, not a walk over all."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # (-used, owner) as of some moment; never less than is used now
        self.total = 0

    def __repr__(self) -> str:
        return f"Shares({self.total} used by {len(self._used)} owners)"

    @property
    def num_owners(self) -> int:
        return len(self._used)

    def used(self, owner: str) -> int:
        return self._used.get(owner, 0)

    def change(self, owner: str, amount: int) -> None:
        """Add to what the owner uses; a negative amount is given back."""
        if not amount:
            return
        used = self._used.get(owner, 0) + amount
        self.total += amount
        if used <= 0:
            self._used.pop(owner, None)
            return
        self._used[owner] = used
        if amount > 0:
            heapq.heappush(self._heap, (-used, owner))
            if len(self._heap) > 64 + 4 * len(self._used):
                self._heap = [(-used, owner) for owner, used in self._used.items()]
                heapq.heapify(self._heap)

    def share(self, limit: int, owner: str) -> float:
        """Of `limit`, for each owner present; `owner` counts as present."""
        return limit / max(1, self.num_owners + (owner not in self._used))

    def largest(self) -> str | None:
        """The owner that uses most; None when nobody uses anything."""
        while self._heap:
            known, owner = self._heap[0]
            used = self._used.get(owner, 0)
            if used == -known:
                return owner
            heapq.heappop(self._heap)
            if used:
                heapq.heappush(self._heap, (-used, owner))
        return None

    def above(self, share: float) -> list[str]:
        """The owners that use more than `share`, the largest user first. A walk over all."""
        return sorted((one for one, used in self._used.items() if used > share), key=lambda one: -self._used[one])
