"""Which place a session has among the shared streams: the place of its open sequences, otherwise its last one."""

from typing import Generic, TypeVar

Place = TypeVar("Place")


class Homes(Generic[Place]):
    """A session with an open sequence keeps its place. Other sessions are forgotten, least recently used first."""

    def __init__(self, max_resting: int = 65_536) -> None:
        """Up to `max_resting` sessions without an open sequence are remembered."""
        self._max_resting = max_resting
        self._open: dict[str, tuple[Place, int]] = {}  # with the number of its open sequences
        self._resting: dict[str, Place] = {}  # the most recently used is last

    def __repr__(self) -> str:
        return f"Homes({len(self._open)} open, {len(self._resting)} resting)"

    def find(self, session_id: str) -> Place | None:
        """Returns the session's place, if known. Counts as a use."""
        if session_id in self._open:
            return self._open[session_id][0]
        place = self._resting.pop(session_id, None)
        if place is not None:
            self._resting[session_id] = place
        return place

    def enter(self, session_id: str, place: Place) -> None:
        """A sequence of the session begins in this place."""
        self._resting.pop(session_id, None)
        _, num_open = self._open.get(session_id, (place, 0))
        self._open[session_id] = place, num_open + 1

    def leave(self, session_id: str) -> None:
        """A sequence that has entered has ended."""
        place, num_open = self._open.pop(session_id)
        if num_open > 1:
            self._open[session_id] = place, num_open - 1
            return
        self._resting[session_id] = place
        if len(self._resting) > self._max_resting:
            del self._resting[next(iter(self._resting))]
