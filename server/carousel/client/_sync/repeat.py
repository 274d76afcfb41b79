# Generated from server/carousel/client/_async/repeat.py by `make client`: change that file, not this one.
"""The attempts at one call: the caller's time, shared among them, and the pauses between them."""

from carousel.client.core.errors import ServerError
from carousel.client.core.options import CallOptions
from carousel.client.core.retries import Attempts
from carousel.client.wires.blocking import Sleep


class Repeat:
    """`attempts` decides, `sleep` waits."""

    def __init__(self, attempts: Attempts, options: CallOptions, sleep: Sleep) -> None:
        self.attempts = attempts
        self._options = options
        self._sleep = sleep

    @property
    def options(self) -> CallOptions:
        """The next attempt's."""
        return self.attempts.limit(self._options)

    def pause_after(self, error: ServerError) -> None:
        """Raises `error` when the call shall not be made again."""
        self._sleep(self.attempts.pause_after(error))
