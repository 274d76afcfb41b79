"""An encrypted connection: which servers to trust, and which certificate to show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. `ca` holds the certificates that sign servers'; without it, those that gRPC brings count. `cert` and
    `key` are the caller's own, for servers that ask for one."""

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a certificate without its key, or a key without its certificate."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("tls: cert and key go together")

    def credentials(self) -> Any:
        """grpc.ChannelCredentials. Raises OSError for a file that cannot be read."""
        ca, key, cert = (
            Path(path).read_bytes() if path is not None else None for path in (self.ca, self.key, self.cert)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)


def choose_credentials(credentials: Any, tls: bool | Tls | None) -> Any:
    """What the channel is made with; None where nothing is encrypted. Raises as `Tls.credentials` does, and ValueError
    where both are given."""
    if not tls:
        return credentials
    if credentials is not None:
        raise ValueError("credentials or tls, not both")
    return (Tls() if tls is True else tls).credentials()
