"""The attempts at one call: the caller's time, shared among them, and the pauses between them."""

from carousel.client.core.errors import ServerError
from carousel.client.core.options import CallOptions
from carousel.client.core.retries import Attempts
from carousel.client.wires.aio import Sleep


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

    async def pause_after(self, error: ServerError) -> None:
        """Raises `error` when the call shall not be made again."""
        await self._sleep(self.attempts.pause_after(error))
