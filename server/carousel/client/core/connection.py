"""Where calls go, and what each carries beside its request."""

import math
from dataclasses import dataclass, field
from typing import Any

from carousel.client.core.calls import Call
from carousel.client.core.errors import expired
from carousel.client.core.metadata import check_metadata
from carousel.client.core.options import CallOptions, Metadata

CHANNEL_OPTIONS = (  # reconnect early and often: the library's own pauses grow to two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # and give up on a server that accepts and stays silent
)
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)  # else equal channels share one
_LONGEST_SECONDS = 1e8  # three years; the library reads much longer timeouts as expired


@dataclass(frozen=True, slots=True)
class Connection:
    """The address, over how many connections, and what every call carries. `credentials` are grpc.ChannelCredentials;
    without them nothing is encrypted."""

    address: str
    credentials: Any = None
    timeout_seconds: float | None = None
    metadata: Metadata = field(default=(), repr=False)  # values may be secrets
    num_connections: int = 1

    def __post_init__(self) -> None:
        """Raises as `timeout` and `check_metadata` do, and ValueError for less than one connection."""
        if self.num_connections < 1:
            raise ValueError("connections: must be at least 1")
        self.timeout(CallOptions())
        check_metadata(self.metadata)

    @property
    def channel_options(self) -> tuple[tuple[str, int], ...]:
        return CHANNEL_OPTIONS + (_OWN_CONNECTION if self.num_connections > 1 else ())

    def timeout(self, options: CallOptions) -> float | None:
        """Returns seconds; None when the time is longer than anyone would wait. Raises ValueError for an invalid
        time."""
        seconds = options.get("timeout_seconds", self.timeout_seconds)
        if seconds is None or seconds > _LONGEST_SECONDS:
            return None
        if math.isnan(seconds):
            raise ValueError("timeout_seconds: must be a number of seconds, or None")
        return seconds

    def arguments(self, call: Call[Any], options: CallOptions, home: str = "") -> dict[str, Any]:
        """Returns the arguments of the stub's method other than the request. `home` is a name for balancers, instead of
        the session's. Raises TypeError for an unknown option, ServerError when the time has run out before the call,
        and as `timeout` and `check_metadata` do."""
        if unknown := options.keys() - CallOptions.__annotations__.keys():
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
        timeout = self.timeout(options)
        if timeout is not None and timeout <= 0:
            raise expired()
        own = options.get("metadata", ())
        check_metadata(own)
        metadata = (*self.metadata, *own)
        # A hint for load balancers; the server refuses ids that no header can carry.
        if (hint := home or call.session_id) and hint.isascii() and hint.isprintable():
            metadata = (*metadata, ("x-session-id", hint))
        return {"timeout": timeout, "metadata": metadata}
