"""Whether a step of held sequences waits a moment for more of them, so that one long step serves all and not two steps
a part each.

Callers answered by the last step often ask again at once, while a few others already wait. Where steps are long, a step
with only those few makes all others wait for a whole step. So a step waits for a small part of a step's time, and for
less after waiting in vain.
"""

_MIN_STEP_SECONDS = 4e-3  # shorter steps gain nothing
_MAX_SHARE, _MIN_SHARE = 0.5, 0.005  # of a step


class Gathering:
    """Decides how long to wait. All times are seconds of one clock."""

    def __init__(self, max_rows: int) -> None:
        """A step has at most `max_rows` rows and never waits for more."""
        self._max_rows = max_rows
        self._step_seconds = 0.0
        self._ended_at = 0.0
        self._num_expected = 0
        self._share = _MAX_SHARE
        self._is_waiting = False

    def note(self, seconds: float, ended_at: float, num_rows: int, num_waiting: int) -> None:
        """Notes the end of a step with only held sequences, and how many wait now."""
        self._step_seconds, self._ended_at = seconds, ended_at
        self._num_expected = min(self._max_rows, max(num_rows + num_waiting, int(0.8 * self._num_expected)))

    def seconds_left(self, now: float, num_waiting: int) -> float:
        """Returns the longest time to wait for more rows; 0 means go."""
        if not num_waiting or self._step_seconds < _MIN_STEP_SECONDS:
            return 0.0
        if num_waiting >= self._num_expected:
            return self._settle(1.5)
        left = self._ended_at + self._share * self._step_seconds - now
        if left <= 0:
            return self._settle(0.7)
        self._is_waiting = True
        return left

    def _settle(self, factor: float) -> float:
        """Ends the wait. The next wait may be longer if all came, and is shorter if not."""
        if self._is_waiting:
            self._is_waiting = False
            self._share = max(_MIN_SHARE, min(_MAX_SHARE, self._share * factor))
        return 0.0
