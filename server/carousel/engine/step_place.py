"""Where a step of held sequences runs: in the event loop while steps are so short that nobody notices, else in the
engine's thread, to which a hand-over and back costs more than a short step.

Decided by what steps took. In the loop a step takes so few rows that 99 of 100 are shorter than a millisecond. Where
that cuts most steps to a few rows, each of which pays for a whole step, or is not possible at all, the thread has them;
after a while the loop is tried again.
"""

import statistics

_NUM_KEPT = 256
_NUM_BETWEEN = 64  # steps from one look to the next
_MAX_SECONDS = 1e-3  # of the 99th percentile in the loop
_FIRST_ROWS = 8
_FIXED_ROWS = 12  # what a step costs beside its rows, in rows, about
_FEW_ROWS = 16  # steps that are cut to fewer cost more than the thread
_FIRST_PATIENCE, _LONGEST_PATIENCE = 64, 16_384  # steps from one try to the next


class StepPlace:
    """Told how long the steps took that could run in either place."""

    def __init__(self, max_rows: int) -> None:
        self._most_rows = max_rows
        self._seconds: list[float] = []
        self._num_noted = 0
        self._num_cut = 0  # of those since the last look
        self._patience = _FIRST_PATIENCE
        self.max_rows = 0  # of a step in the loop; 0: it runs in the thread

    def __repr__(self) -> str:
        return f"StepPlace({f'in the loop, {self.max_rows} rows' if self.max_rows else 'in the thread'})"

    @property
    def is_in_loop(self) -> bool:
        return self.max_rows > 0

    def note(self, seconds: float, num_rows: int, num_left: int) -> bool:
        """A step in the place that is chosen now, and how many waited when it was over: in the loop, those that it did
        not take. Whether another place is chosen by that."""
        if not self.max_rows and num_rows > _FIRST_ROWS:
            seconds = _scale(seconds, num_rows, _FIRST_ROWS)
        if len(self._seconds) < _NUM_KEPT:
            self._seconds.append(seconds)
        else:
            self._seconds[self._num_noted % _NUM_KEPT] = seconds
        self._num_noted += 1
        self._num_cut += num_left > 0
        if self._num_noted % _NUM_BETWEEN:
            return False
        before = self.max_rows
        self.max_rows = self._choose_in_loop() if before else self._choose_in_thread()
        self._num_cut = 0
        if self.max_rows != before:
            self._seconds, self._num_noted = [], 0
        return (self.max_rows > 0) != (before > 0)

    def _choose_in_thread(self) -> int:
        is_tried = self._num_noted >= self._patience and statistics.median(self._seconds) < _MAX_SECONDS
        return min(_FIRST_ROWS, self._most_rows) if is_tried else 0

    def _choose_in_loop(self) -> int:
        slow = sorted(self._seconds)[int(0.99 * (len(self._seconds) - 1))]
        more = min(self.max_rows + self.max_rows // 2, self._most_rows)
        is_cut = self._num_cut > _NUM_BETWEEN // 2
        if _scale(slow, self.max_rows, more) < _MAX_SECONDS:
            if not is_cut or more >= _FEW_ROWS:
                self._patience = _FIRST_PATIENCE
            return more
        fewer = self.max_rows if slow <= _MAX_SECONDS else 2 * self.max_rows // 3
        if fewer >= (_FEW_ROWS if is_cut else _FIRST_ROWS // 2):
            return fewer
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        return 0


def _scale(seconds: float, num_rows: int, other: int) -> float:
    """What a step of another number of rows would take, about."""
    return seconds * (other + _FIXED_ROWS) / (num_rows + _FIXED_ROWS)
