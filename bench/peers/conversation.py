"""One sequence on a server, whichever it is: a token in, the likeliest next tokens out. The loop around it is in
`client.py`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import grpc

NUM_CANDIDATES = 10  # that each answer holds
TIMEOUT_SECONDS = 60.0  # of a unary call: a server that loses one must not stop the bench


class ServerFailed(Exception):
    """A server ended a stream or answered with an error."""


class Conversation(Protocol):
    """Tokens go in one at a time; each answer comes before the next token goes."""

    async def step(self, token: int) -> Sequence[int]:
        """The likeliest next tokens, likeliest first."""

    async def close(self) -> None:
        """Frees what the server keeps."""


class Way(Protocol):
    """How conversations reach a server, whether each by itself or together."""

    def open(self) -> Conversation:
        """Another one."""

    async def close(self) -> None:
        """After all of them."""


async def read(call: Any) -> Any:
    """The stream's next message. Raises ServerFailed when it has ended instead."""
    response = await call.read()
    if response is grpc.aio.EOF:
        raise ServerFailed(f"{await call.code()}: {await call.details()}")
    return response
