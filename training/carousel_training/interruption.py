"""Turns SIGINT and SIGTERM into a flag that the training loop checks between steps. It saves nothing itself."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether the user has asked the run to stop."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. A second signal reaches the default handlers and ends the process at once."""
        self.is_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def catch_interruption() -> Iterator[Interruption]:
    """Listens inside the block and restores the handlers after it. Main thread only."""
    interruption = Interruption()
    before = [(number, signal.signal(number, interruption.request)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield interruption
    finally:
        for number, handler in before:
            signal.signal(number, handler)
