"""When sessions are due, as hints: a session that was used since is due later than its hint says."""

import heapq
from collections.abc import Callable

Key = tuple[float, str]  # (created_at, id): this very object, so that a namesake is another one
Hint = tuple[float, Key, str]  # when it is due at the earliest, key, owner

_NUM_TIDIED = 4


class Expiries:
    """A hint of each session, earliest first. Hints of sessions that are gone are cleared away bit by bit: going over
    all of them at once would hold up everybody. There are never more of them than about one for each live session."""

    def __init__(self) -> None:
        self._old: list[Hint] = []  # a heap that is looked through from its end
        self._new: list[Hint] = []  # a heap of what was looked through, and of what came since

    def __len__(self) -> int:
        return len(self._old) + len(self._new)

    def add(self, expires_at: float, key: Key, owner: str) -> None:
        heapq.heappush(self._new, (expires_at, key, owner))

    def pop(self, now: float) -> Hint | None:
        """The earliest, if its time has come."""
        heap = self._old if self._old and (not self._new or self._old[0] <= self._new[0]) else self._new
        return heapq.heappop(heap) if heap and heap[0][0] <= now else None

    def tidy(self, find: Callable[[str, Key], float | None]) -> None:
        """After each end: a few steps on. `find` says when a session is due now, None of one that is gone."""
        for _ in range(_NUM_TIDIED):
            if not self._old:
                self._old, self._new = self._new, self._old
                if not self._old:
                    return
            _, key, owner = self._old.pop()  # of a heap, the last may be taken away
            expires_at = find(owner, key)
            if expires_at is not None:
                self.add(expires_at, key, owner)
