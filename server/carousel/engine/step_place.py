"""Where a step runs: in the event loop while steps are so short that nobody notices, else in the engine's thread.

A hand-over to the thread and back costs more than a short step. Decided by what steps took, with hysteresis.
"""

_NUM_KEPT = 512
_NUM_BETWEEN = 64  # steps from one look to the next
_ENTER_SECONDS, _LEAVE_SECONDS = 0.7e-3, 1e-3  # of the 99th percentile


class StepPlace:
    """Told how long the steps took that could run in either place."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._next = 0
        self.is_in_loop = False

    def note(self, seconds: float) -> bool:
        """Whether this changes the place."""
        if len(self._seconds) < _NUM_KEPT:
            self._seconds.append(seconds)
        else:
            self._seconds[self._next % _NUM_KEPT] = seconds
        self._next += 1
        return self._next % _NUM_BETWEEN == 0 and self._decide()

    def _decide(self) -> bool:
        slow = sorted(self._seconds)[int(0.99 * (len(self._seconds) - 1))]
        was_in_loop = self.is_in_loop
        self.is_in_loop = slow < (_LEAVE_SECONDS if was_in_loop else _ENTER_SECONDS)
        return self.is_in_loop != was_in_loop
