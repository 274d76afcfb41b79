"""gRPC's calls among all that are open."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from carousel.rpc.errors import to_status
from carousel.rpc.reading import UNREADABLE
from carousel.sessions.calls import Call, CallRefused, Calls
from carousel.sessions.refusals import ItemRefusals

Context: TypeAlias = grpc.aio.ServicerContext  # a name for annotations; grpc ships no types


class RpcCalls:
    """Gives each its status at the end."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @contextlib.asynccontextmanager
    async def answer(
        self, method: str, context: Context, request: Any = None, *, is_counted: bool = True
    ) -> AsyncIterator[Call]:
        """Run a handler's body inside this: whatever it raises becomes the call's status, counted before it is sent.
        `request` is its message, where it has one; a call that is not counted needs no place among the streams."""
        call = Call(method, request, lost=grpc.aio.InternalError)
        is_readable = request is not UNREADABLE
        try:
            async with self._calls.answer(call, context, is_counted=is_counted, is_readable=is_readable):
                yield call
            return
        except CallRefused as refused:
            error = refused.error
        await context.abort_with_status(rpc_status.to_status(to_status(error)))

    def refusing_items(self, method: str, context: Context) -> ItemRefusals:
        """For parts of a call that fail while it goes on."""
        return self._calls.refusing_items(method, context.peer())
