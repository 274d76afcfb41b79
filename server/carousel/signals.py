"""The signals that stop the server: the first one drains it, the second one kills it."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

_STOPPING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """Yields an event that the first SIGTERM or SIGINT sets. The second one then has its default effect, at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        for number in _STOPPING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _STOPPING:
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)
