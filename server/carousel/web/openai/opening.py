"""Sessions that callers name: one that does not exist begins once its first request has passed every check."""

import contextlib
from collections.abc import Awaitable, Callable

from carousel.errors import SessionExists, SessionNotFound
from carousel.sessions.calls import Call, Calls
from carousel.sessions.operations import SessionOperations
from carousel.sessions.requests import Caller


class SessionOpening:
    """Opens the sessions of callers that may make some."""

    def __init__(self, operations: SessionOperations, calls: Calls) -> None:
        self._operations = operations
        self._calls = calls

    async def ensure(self, call: Call, caller: Caller, check: Callable[[], Awaitable[None]]) -> None:
        """Creates the caller's session if it does not exist, unless the caller expects to be further. `check` raises
        for a request that would be refused later. Raises SessionEnded for one that has ended."""
        try:
            await self._operations.get(caller.owner, caller.session_id)
        except SessionNotFound:
            if caller.expected_position:
                raise
            await check()
            self._calls.permit(call, "CreateSession")
            with contextlib.suppress(SessionExists):  # by another request, meanwhile
                await self._operations.create(caller.owner, caller.session_id)
