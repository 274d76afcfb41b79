"""When a call may be retried, and after how long. Pure: the clock is an argument, and nothing here sleeps.

A call is retried after failures that mean "not done, try again" or that leave it unknown whether it was done. Callers
of this module make sure that a retry does no harm.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from carousel.client.core.errors import ServerError
from carousel.client.core.options import CallOptions

_MAX_DOUBLINGS = 1023  # the largest power of two in a float


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how fast to retry. The pause doubles from `first_seconds` to `max_seconds`. It is shortened by a
    random part of up to half, so that the clients of a restarted server do not return at the same moment. The defaults
    cover an outage of about ten seconds."""

    max_attempts: int = 10  # in a row without progress; 1 never retries
    first_seconds: float = 0.1
    max_seconds: float = 3.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts: must be at least 1, not {self.max_attempts}")
        if not 0 < self.first_seconds <= self.max_seconds:
            raise ValueError("first_seconds: must be above 0 and at most max_seconds")


class Attempts:
    """The attempts at one call, and the caller's time for all of them together."""

    def __init__(
        self,
        retries: Retries,
        timeout_seconds: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._draw = draw
        self._ends_at = None if timeout_seconds is None else clock() + timeout_seconds
        self._num_failed = 0

    def limit(self, options: CallOptions) -> CallOptions:
        """Returns the call's options with the time that is left."""
        if self._ends_at is None:
            return options
        return CallOptions(**options | {"timeout_seconds": max(0.0, self._ends_at - self._clock())})

    def note_progress(self) -> None:
        """Something new has arrived: earlier failures no longer count."""
        self._num_failed = 0

    def pause_after(self, error: ServerError) -> float:
        """Returns the seconds to wait before the next attempt. Raises `error` when there is none."""
        self._num_failed += 1
        if not is_repeatable(error) or self._num_failed >= self._retries.max_attempts:
            raise error
        doublings = min(self._num_failed - 1, _MAX_DOUBLINGS)
        pause = min(self._retries.max_seconds, self._retries.first_seconds * 2.0**doublings)
        seconds = self._draw(pause / 2, pause) + (error.retry_after_seconds or 0.0)
        if self._ends_at is not None and self._clock() + seconds >= self._ends_at:
            raise error
        return seconds


def is_repeatable(error: ServerError) -> bool:
    """Returns whether the same request may succeed later: the server was away or overloaded, or another request was
    faster.

    OK means a stream that ended without its last message. Only the server itself can say that its load will pass:
    without its reason, RESOURCE_EXHAUSTED is a quota, or a message that is too large.
    """
    if error.code == "RESOURCE_EXHAUSTED":
        return is_refused_for_load(error)
    return error.code in ("UNAVAILABLE", "OK") or error.reason == "SESSION_MOVED"


def is_refused_for_load(error: ServerError) -> bool:
    """Returns whether the server did none of the request and says when it may have time."""
    return error.code == "RESOURCE_EXHAUSTED" and error.retry_after_seconds is not None
