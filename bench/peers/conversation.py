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


async def exchange(call: Any, request: Any) -> Any:
    """One message each way. Raises ServerFailed when the stream has ended instead."""
    await call.write(request)
    response = await call.read()
    if response is grpc.aio.EOF:
        raise ServerFailed(f"{await call.code()}: {await call.details()}")
    return response
