"""A guard that admits one caller at a time and never blocks."""

import threading


class Door:
    """Guards a predictor's request. Tasks or threads may meet here."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Raises RuntimeError when another caller is inside."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("a predictor takes one request at a time; the previous one has no answer yet")

    def __exit__(self, *raised: object) -> None:
        self._lock.release()
