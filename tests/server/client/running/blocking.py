"""Concurrency: one thread each. `aio` has the same for tasks."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from carousel.client.wires.blocking import WireOptions

WIRES = [WireOptions()]  # there is but one
SECONDS = 20  # after which what does not end has failed


class Running:
    """A started request, possibly without an answer."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        pool = ThreadPoolExecutor(1)
        self._future = pool.submit(ask)
        pool.shutdown(wait=False)

    def result(self) -> Any:
        """Raises the request's error."""
        return self._future.result(SECONDS)

    def outcome(self) -> Any:
        """Returns the answer, or the error."""
        return self._future.exception(SECONDS) or self._future.result()


class Meeting:
    """All `size` threads wait until all have arrived."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=SECONDS)

    def wait(self, seconds: float) -> None:
        """Replaces a pause of this many seconds."""
        self._barrier.wait()


def happens(event: threading.Event) -> bool:
    """Returns whether a server's thread has set the event, or sets it soon."""
    return event.wait(SECONDS)
