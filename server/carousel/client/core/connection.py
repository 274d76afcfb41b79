"""Where calls go, and what each carries beside its request."""

from dataclasses import dataclass
from typing import Any

from carousel.client.core.calls import Call
from carousel.client.core.options import CallOptions, Metadata

CHANNEL_OPTIONS = (  # look for a server that went away soon, and often: the library's own pauses grow to two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # and give up on one that takes the connection and says nothing
)


@dataclass(frozen=True, slots=True)
class Connection:
    """`credentials` are grpc.ChannelCredentials; without them nothing is encrypted."""

    address: str
    credentials: Any = None
    timeout_seconds: float | None = None
    metadata: Metadata = ()

    def timeout(self, options: CallOptions) -> float | None:
        return options.get("timeout_seconds", self.timeout_seconds)

    def arguments(self, call: Call[Any], options: CallOptions, home: str = "") -> dict[str, Any]:
        """What to give to the stub's method beside the request. `home` is a name to balance by, instead of the
        session's. Raises TypeError for an unknown option."""
        if unknown := options.keys() - CallOptions.__annotations__.keys():
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
        metadata = (*self.metadata, *options.get("metadata", ()))
        # A hint for load balancers; an id that no header can carry is for the server to refuse.
        if (hint := home or call.session_id) and hint.isascii() and hint.isprintable():
            metadata = (*metadata, ("x-session-id", hint))
        return {"timeout": self.timeout(options), "metadata": metadata}
