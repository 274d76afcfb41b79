"""Whether a step of held sequences waits a moment for those that will soon be there, so that one long step serves all
instead of two that serve a part each.

Who was answered by the last step often asks again at once, while a few others wait already. Where steps are long, to go
with the few makes everybody else wait for a whole step. It waits for a small part of a step, less where that was in
vain.
"""

_MIN_STEP_SECONDS = 4e-3  # where steps are shorter nothing is gained
_MAX_SHARE, _MIN_SHARE = 0.5, 0.005  # of a step


class Gathering:
    """Times are seconds of one clock."""

    def __init__(self, max_rows: int) -> None:
        """`max_rows` is the most of a step: nobody waits for more."""
        self._max_rows = max_rows
        self._step_seconds = 0.0
        self._ended_at = 0.0
        self._num_expected = 0
        self._share = _MAX_SHARE
        self._is_waiting = False

    def note(self, seconds: float, ended_at: float, num_rows: int, num_waiting: int) -> None:
        """A step of held sequences alone has ended, and so many wait."""
        self._step_seconds, self._ended_at = seconds, ended_at
        self._num_expected = min(self._max_rows, max(num_rows + num_waiting, int(0.8 * self._num_expected)))

    def seconds_left(self, now: float, num_waiting: int) -> float:
        """How long to wait at the most for more than those that wait now; 0: go."""
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
        """The wait is over: the next one may be longer if all came, and is shorter if not."""
        if self._is_waiting:
            self._is_waiting = False
            self._share = max(_MIN_SHARE, min(_MAX_SHARE, self._share * factor))
        return 0.0
