# Generated from server/carousel/client/_async/repeat.py by `make client`: change that file, not this one.
"""The attempts at one call: they share the caller's time, with pauses between them."""

from carousel.client.core.errors import ServerError
from carousel.client.core.options import CallOptions
from carousel.client.core.retries import Attempts
from carousel.client.wires.blocking import Sleep


class Repeat:
    """The attempts at one call: `attempts` decides, `sleep` waits."""

    def __init__(self, attempts: Attempts, options: CallOptions, sleep: Sleep) -> None:
        self.attempts = attempts
        self._options = options
        self._sleep = sleep

    @property
    def options(self) -> CallOptions:
        """Returns the options of the next attempt."""
        return self.attempts.limit(self._options)

    def pause_after(self, error: ServerError) -> None:
        """Waits before the next attempt. Raises `error` when the call must not be retried."""
        self._sleep(self.attempts.pause_after(error))
