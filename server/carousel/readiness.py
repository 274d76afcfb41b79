"""Whether the server is ready for calls, and whether its session store answers."""

import time
from collections.abc import Callable

import structlog

_MAX_FAILURES = 3  # consecutive calls: one may be a single session's problem
_FORGET_SECONDS = 10.0  # without calls, no call can show that writes work again


class StoreHealth:
    """The store's health, from a probe that reads and from calls that write: a store whose disk or memory is full still
    reads. `told` is called at the start and at each change. Never shows an error's text, which may hold an address or
    an id: its type is enough."""

    def __init__(self, told: Callable[[bool], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._told = told
        self._clock = clock
        self._probe_trouble = ""
        self._num_failures = 0  # consecutive failed calls
        self._last_failure_at = 0.0
        self.trouble = ""  # empty: it answers
        self._log = structlog.get_logger("carousel.readiness")
        told(True)

    @property
    def is_up(self) -> bool:
        return not self.trouble

    def probe_failed(self, error: Exception) -> None:
        self._probe_trouble = type(error.__cause__ or error).__name__
        self._decide()

    def probe_succeeded(self) -> None:
        self._probe_trouble = ""
        if self._clock() - self._last_failure_at > _FORGET_SECONDS:
            self._num_failures = 0
        self._decide()

    def call_failed(self, error: Exception) -> None:
        """A call ended with StoreUnavailable."""
        self._num_failures += 1
        self._last_failure_at = self._clock()
        self._decide()

    def call_succeeded(self) -> None:
        """A call that wrote to the store was answered."""
        if self._num_failures:
            self._num_failures = 0
            self._decide()

    def _decide(self) -> None:
        was_up = self.is_up
        failing = "calls fail" if self._num_failures >= _MAX_FAILURES else ""
        self.trouble = self._probe_trouble or failing
        if self.is_up == was_up:
            return
        self._told(self.is_up)
        if self.is_up:
            self._log.info("the session store answers again")
        else:
            self._log.warning("the session store does not answer", trouble=self.trouble)


class Readiness:
    """`is_serving` is set between start and drain. The store counts where `needs_store`."""

    def __init__(self, store: StoreHealth, *, needs_store: bool) -> None:
        self.store = store
        self.is_serving = False
        self._needs_store = needs_store

    @property
    def is_ready(self) -> bool:
        return self.is_serving and (self.store.is_up or not self._needs_store)

    @property
    def text(self) -> str:
        """A line for operators."""
        state = "ready" if self.is_ready else "not ready"
        return state if self.store.is_up else f"{state}; the session store does not answer: {self.store.trouble}"
