"""Tasks of the server that must not die: a task that fails restarts after a pause, and is counted and logged."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds
_HEALTHY_SECONDS = 60.0  # a task that ran this long starts with the first pause again


async def keep_running(
    name: str,
    work: Callable[[], Awaitable[None]],
    restarted: Callable[[str], None],
    pause_seconds: float = _FIRST_PAUSE,
) -> None:
    """Runs `work` until it returns or this call is cancelled. When `work` raises, `restarted` gets the name, and `work`
    runs again after a pause. The pause doubles while failures are quick."""
    log = structlog.get_logger("carousel.tasks")
    pause = pause_seconds
    while True:
        started = time.monotonic()
        try:
            await work()
            return
        except Exception as error:
            restarted(name)
            pause = pause_seconds if time.monotonic() - started > _HEALTHY_SECONDS else pause
            log.error("task died", task=name, pause_seconds=pause, exc_info=error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


@contextlib.asynccontextmanager
async def running_task(
    name: str, work: Callable[[], Awaitable[None]], restarted: Callable[[str], None]
) -> AsyncIterator[None]:
    """Runs `keep_running` during the block and ends it with the block."""
    task = asyncio.create_task(keep_running(name, work, restarted), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
