"""Where a session stands, as far as its client knows: what the next turn may expect. Knows no call.

While a turn runs, the position is unknown; its last answer tells the new one, and a failure leaves the old one. A turn
that its caller gave up may have been applied or not, and turns that overlapped have no certain order: then the position
is unknown until the next answer, and no expectation is sent.
"""

import threading
import weakref


class OpenTurn:
    """A turn that has begun. One that is dropped counts as given up."""

    __slots__ = ("__weakref__", "expected_position", "is_alone")

    def __init__(self, expected_position: int | None, *, is_alone: bool) -> None:
        self.expected_position = expected_position
        self.is_alone = is_alone


class KnownPosition:
    """None when unknown. Threads may share it."""

    def __init__(self, position: int | None) -> None:
        self._position = position
        self._open: weakref.WeakSet[OpenTurn] = weakref.WeakSet()
        self._lock = threading.Lock()

    @property
    def value(self) -> int | None:
        return self._position

    def begin(self) -> OpenTurn:
        with self._lock:
            others = list(self._open)
            for other in others:
                other.is_alone = False
            turn = OpenTurn(None if others else self._position, is_alone=not others)
            self._open.add(turn)
            self._position = None
            return turn

    def succeed(self, turn: OpenTurn, position: int) -> None:
        self._end(turn, position)

    def fail(self, turn: OpenTurn) -> None:
        """The expectation stays: should the turn have been applied after all, the next one is refused and says so."""
        self._end(turn, turn.expected_position)

    def give_up(self, turn: OpenTurn) -> None:
        self._end(turn, None)

    def learn(self, position: int) -> None:
        """From an answer outside any turn."""
        with self._lock:
            if not self._open:
                self._position = position

    def _end(self, turn: OpenTurn, position: int | None) -> None:
        with self._lock:
            if turn in self._open and turn.is_alone:
                self._position = position
            self._open.discard(turn)
