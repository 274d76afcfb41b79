"""What lets in one at a time, and keeps nobody waiting."""

import threading


class Door:
    """Around a predictor's question. Tasks or threads may meet at it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Raises RuntimeError when somebody is inside."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("a predictor is asked one question at a time; another one is not answered yet")

    def __exit__(self, *raised: object) -> None:
        self._lock.release()
