"""Several things at once: a thread each. `aio` has the same for tasks."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from carousel.client.wires.blocking import WireOptions

WIRES = [WireOptions()]  # there is but one
SECONDS = 20  # after which what does not end has failed


class Running:
    """Something that has been asked, and may not have been answered."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        pool = ThreadPoolExecutor(1)
        self._future = pool.submit(ask)
        pool.shutdown(wait=False)

    def result(self) -> Any:
        """Raises what it raises."""
        return self._future.result(SECONDS)

    def outcome(self) -> Any:
        """Its answer, or what it raises."""
        return self._future.exception(SECONDS) or self._future.result()


class Meeting:
    """All of `size` wait until all are there."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=SECONDS)

    def wait(self, seconds: float) -> None:
        """It stands in for a pause of so many seconds."""
        self._barrier.wait()


def happens(event: threading.Event) -> bool:
    """Whether a server's thread has set it, or does so soon."""
    return event.wait(SECONDS)
