"""Where calls go, and what each carries beside its request."""

import math
from dataclasses import dataclass
from typing import Any

from carousel.client.core.calls import Call
from carousel.client.core.errors import expired
from carousel.client.core.metadata import check_metadata
from carousel.client.core.options import CallOptions, Metadata

CHANNEL_OPTIONS = (  # look for a server that went away soon, and often: the library's own pauses grow to two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # and give up on one that takes the connection and says nothing
)
_LONGEST_SECONDS = 1e8  # three years; the library takes much longer times for ones that are over


@dataclass(frozen=True, slots=True)
class Connection:
    """`credentials` are grpc.ChannelCredentials; without them nothing is encrypted."""

    address: str
    credentials: Any = None
    timeout_seconds: float | None = None
    metadata: Metadata = ()

    def __post_init__(self) -> None:
        """Raises as `timeout` and `check_metadata` do."""
        self.timeout(CallOptions())
        check_metadata(self.metadata)

    def timeout(self, options: CallOptions) -> float | None:
        """In seconds; None where nobody would live to see the end. Raises ValueError for what is no time."""
        seconds = options.get("timeout_seconds", self.timeout_seconds)
        if seconds is None or seconds > _LONGEST_SECONDS:
            return None
        if math.isnan(seconds):
            raise ValueError("timeout_seconds: must be a number of seconds, or None")
        return seconds

    def arguments(self, call: Call[Any], options: CallOptions, home: str = "") -> dict[str, Any]:
        """What to give to the stub's method beside the request. `home` is a name to balance by, instead of the
        session's. Raises TypeError for an unknown option, ServerError when the time is over before the call, and as
        `timeout` and `check_metadata` do."""
        if unknown := options.keys() - CallOptions.__annotations__.keys():
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
        timeout = self.timeout(options)
        if timeout is not None and timeout <= 0:
            raise expired()
        own = options.get("metadata", ())
        check_metadata(own)
        metadata = (*self.metadata, *own)
        # A hint for load balancers; an id that no header can carry is for the server to refuse.
        if (hint := home or call.session_id) and hint.isascii() and hint.isprintable():
            metadata = (*metadata, ("x-session-id", hint))
        return {"timeout": timeout, "metadata": metadata}
