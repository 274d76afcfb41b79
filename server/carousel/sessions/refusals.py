"""Items of one call that fail while the call goes on: each is counted and logged like a call, with a bound on lines."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from carousel.metrics import Metrics
from carousel.sessions import facts

_MAX_LINES = 10  # per second, one for each item
_SECOND = 1.0


class ItemRefusals:
    """The refused items of one call. `count` counts an error as one that ends a call, logs a line if it is unexpected,
    and returns its code. The caller closes this when the call ends."""

    def __init__(
        self,
        method: str,
        peer: str,
        count: Callable[[str, Exception, bool], str],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._method = method
        self._peer = peer
        self._count = count
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger("carousel.calls")
        self._since = -_SECOND  # when the current second began
        self._num_lines = 0
        self._num_unlogged = 0

    def note(self, request: Any, error: Exception) -> None:
        """Counts a refused item, and logs it while the bound allows."""
        is_logged = self._count_line()
        code = self._count(self._method, error, is_logged)
        self._metrics.item_refused(self._method, code)
        if is_logged:
            why = facts.of_failure(request, self._peer, error)
            self._log.info("item", method=self._method, code=code, **why)
        else:
            self._num_unlogged += 1

    def close(self) -> None:
        """Logs one line for all items that have none."""
        if self._num_unlogged:
            self._log.info("items", method=self._method, num_refused=self._num_unlogged)
            self._num_unlogged = 0

    def _count_line(self) -> bool:
        now = self._clock()
        if now >= self._since + _SECOND:
            self.close()
            self._since, self._num_lines = now, 0
        self._num_lines += 1
        return self._num_lines <= _MAX_LINES
