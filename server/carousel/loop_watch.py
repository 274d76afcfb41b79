"""How long the event loop blocks, and, for debugging, which code blocks it."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable

import structlog

from carousel.logs import place

_BEAT_SECONDS = 0.01  # the resolution: a handler that blocks longer is a defect
_MAX_FRAMES = 30


class LoopWatch:
    """Beats in the event loop; `observe` gets the lateness of each beat in seconds. A handler that blocks the loop for
    d seconds shows as at least d - 0.01.

    With `slow_seconds` a thread watches the beats from outside. When a beat is that late, it logs the stack of the
    loop's thread once a stall: modules, lines and functions. asyncio's debug mode would print values too.
    """

    def __init__(self, observe: Callable[[float], None], slow_seconds: float = 0.0) -> None:
        self._observe = observe
        self._slow_seconds = slow_seconds
        self._due_at = time.perf_counter()
        self._has_ended = threading.Event()

    async def run(self) -> None:
        """Runs until it is cancelled."""
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
        """Runs in the thread. Each stall gives one line, written while it lasts, so that it shows the responsible
        frames."""
        log = structlog.get_logger("carousel.loop_watch")
        noted = 0.0
        while not has_ended.wait(self._slow_seconds / 4):
            due_at = self._due_at
            late = time.perf_counter() - due_at
            if late >= self._slow_seconds and noted != due_at:
                noted = due_at
                log.warning("event loop is held", seconds=round(late, 3), frames=_stack(loop_thread))


def _stack(thread: int) -> list[str]:
    """Returns a thread's stack, outermost first."""
    found: list[str] = []
    frame = sys._current_frames().get(thread)
    while frame is not None and len(found) < _MAX_FRAMES:
        found.append(place(frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]
