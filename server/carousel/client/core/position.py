"""The position of a session, as far as its client knows: what the next turn may expect. Knows no call.

While a turn runs, the position is unknown; its last answer sets the new one, and a failure restores the old one. A turn
that its caller gave up may or may not be applied, and overlapping turns have no certain order: then the position stays
unknown until the next answer, and the client sends no expectation. A rewind counts as a turn. An answer that only
reports the position counts when no turn was open between its request and the answer.
"""

import threading
import weakref


class OpenTurn:
    """A turn that has begun. A dropped turn counts as given up."""

    __slots__ = ("__weakref__", "expected_position", "is_alone", "is_over")

    def __init__(self, expected_position: int | None, *, is_alone: bool) -> None:
        self.expected_position = expected_position
        self.is_alone = is_alone
        self.is_over = False


class KnownPosition:
    """A session's position; None when unknown. Threads may share it."""

    def __init__(self, position: int | None) -> None:
        self._position = position
        self._open: list[weakref.ref[OpenTurn]] = []  # also those that ended since the last one began
        self._num_begun = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int | None:
        return self._position

    def begin(self) -> OpenTurn:
        with self._lock:
            self._open = self._find_open()
            for one in self._open:
                if (other := one()) is not None:
                    other.is_alone = False
            turn = OpenTurn(None if self._open else self._position, is_alone=not self._open)
            self._open.append(weakref.ref(turn))
            self._num_begun += 1
            self._position = None
            return turn

    def succeed(self, turn: OpenTurn, position: int | None) -> None:
        """Records the end of an applied turn. None: the new position is unknown."""
        self._end(turn, position)

    def fail(self, turn: OpenTurn) -> None:
        """Records a failure. The expectation stays: if the turn was applied after all, the next one is refused and
        reports that."""
        self._end(turn, turn.expected_position)

    def give_up(self, turn: OpenTurn) -> None:
        self._end(turn, None)

    def look(self) -> int | None:
        """Call this before a request outside any turn, and pass the result to `learn` with the answer."""
        with self._lock:
            return None if self._find_open() else self._num_begun

    def learn(self, position: int, looked: int | None) -> None:
        """Records the position from an answer outside any turn; a turn since the request makes it outdated."""
        with self._lock:
            if looked == self._num_begun and not self._find_open():
                self._position = position

    def _end(self, turn: OpenTurn, position: int | None) -> None:
        with self._lock:
            if turn.is_over:
                return
            turn.is_over = True
            if turn.is_alone:
                self._position = position

    def _find_open(self) -> list[weakref.ref[OpenTurn]]:
        return [one for one in self._open if (turn := one()) is not None and not turn.is_over]
