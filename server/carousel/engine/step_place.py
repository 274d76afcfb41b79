"""Where a step of held sequences runs: in the event loop while steps are so short that no caller notices, otherwise in
the engine's thread. The hand-over to the thread and back costs more than a short step.

The times of past steps decide. In the loop, a step has so few rows that 99 of 100 steps take less than a millisecond.
If that is not possible, or cuts most steps to a few rows that each pay for a whole step, the thread runs them. After a
while the loop is tried again.
"""

import statistics

_NUM_KEPT = 256
_NUM_BETWEEN = 64  # steps between two decisions
_MAX_SECONDS = 1e-3  # of the 99th percentile in the loop
_FIRST_ROWS = 8
_FIXED_ROWS = 12  # a step's cost without its rows, in rows, about
_FEW_ROWS = 16  # steps cut to fewer rows cost more than the thread
_FIRST_PATIENCE, _LONGEST_PATIENCE = 64, 16_384  # steps between two tries


class StepPlace:
    """Chooses the place from the times of the steps that could run in either place."""

    def __init__(self, max_rows: int) -> None:
        self._most_rows = max_rows
        self._seconds: list[float] = []
        self._num_noted = 0
        self._num_cut = 0  # steps that left rows waiting, since the last decision
        self._patience = _FIRST_PATIENCE
        self.max_rows = 0  # of a step in the loop; 0: steps run in the thread

    def __repr__(self) -> str:
        return f"StepPlace({f'in the loop, {self.max_rows} rows' if self.max_rows else 'in the thread'})"

    @property
    def is_in_loop(self) -> bool:
        return self.max_rows > 0

    def note(self, seconds: float, num_rows: int, num_left: int) -> bool:
        """Notes a step in the current place, and how many rows waited when it ended: in the loop, those that it did
        not take. Returns whether the place changes."""
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
    """Estimates the time of a step with another number of rows."""
    return seconds * (other + _FIXED_ROWS) / (num_rows + _FIXED_ROWS)
