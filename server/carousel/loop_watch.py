"""How long the event loop keeps others waiting, and, for debugging, who held it."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable

import structlog

from carousel.logs import place

_BEAT_SECONDS = 0.01  # a handler that takes longer than this at once is a defect, so this is the grain
_MAX_FRAMES = 30


class LoopWatch:
    """Beats in the event loop; `observe` is told how late each beat came, in seconds. A handler that holds the loop for
    d seconds shows as at least d - 0.01.

    With `slow_seconds` a thread looks at the beats from outside, and logs where the loop's thread stands when one is
    missing for so long: modules, lines and functions, once a stall. asyncio's own debug mode would print the values.
    """

    def __init__(self, observe: Callable[[float], None], slow_seconds: float = 0.0) -> None:
        self._observe = observe
        self._slow_seconds = slow_seconds
        self._due_at = time.perf_counter()
        self._has_ended = threading.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        self._has_ended.clear()
        self._due_at = time.perf_counter() + _BEAT_SECONDS
        if self._slow_seconds:
            arguments = (threading.get_ident(), self._has_ended)
            threading.Thread(target=self._look, args=arguments, name="loop-watch", daemon=True).start()
        try:
            while True:
                await asyncio.sleep(_BEAT_SECONDS)
                now = time.perf_counter()
                self._observe(max(0.0, now - self._due_at))
                self._due_at = now + _BEAT_SECONDS
        finally:
            self._has_ended.set()

    def _look(self, loop_thread: int, has_ended: threading.Event) -> None:
        """The thread. One stall is one line, written while it lasts, so that the frames are those of the offender."""
        log = structlog.get_logger("carousel.loop_watch")
        noted = 0.0
        while not has_ended.wait(self._slow_seconds / 4):
            due_at = self._due_at
            late = time.perf_counter() - due_at
            if late >= self._slow_seconds and noted != due_at:
                noted = due_at
                log.warning("event loop is held", seconds=round(late, 3), frames=_stack(loop_thread))


def _stack(thread: int) -> list[str]:
    """Where a thread stands, outermost first."""
    found: list[str] = []
    frame = sys._current_frames().get(thread)
    while frame is not None and len(found) < _MAX_FRAMES:
        found.append(place(frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]
