"""Items of one call that fail while it goes on: each is counted and told as a call is; of many, few are logged."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from carousel.metrics import Metrics
from carousel.sessions import facts

_MAX_LINES = 10  # a second, one for each item
_SECOND = 1.0


class ItemRefusals:
    """`count` notes an error as one that ends a call is noted, with a line if it is unexpected; it gives the code. To
    be closed when the call ends."""

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
        self._since = -_SECOND  # when the second began whose lines are counted
        self._num_lines = 0
        self._num_unlogged = 0

    def note(self, request: Any, error: Exception) -> None:
        """The item was refused."""
        is_logged = self._count_line()
        code = self._count(self._method, error, is_logged)
        self._metrics.item_refused(self._method, code)
        if is_logged:
            why = facts.of_failure(request, self._peer, error)
            self._log.info("item", method=self._method, code=code, **why)
        else:
            self._num_unlogged += 1

    def close(self) -> None:
        """One line for all that have none."""
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
