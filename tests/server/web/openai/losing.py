"""An HTTP client that loses its first answer, after the server has given it."""

import contextlib
from collections.abc import AsyncIterator

import httpx2 as httpx


class _Losing(httpx.AsyncHTTPTransport):
    def __init__(self) -> None:
        super().__init__()
        self._is_lost = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if self._is_lost:
            return response
        self._is_lost = True
        await response.aread()
        raise httpx.ReadError("lost", request=request)


@contextlib.asynccontextmanager
async def losing_first() -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client whose first answer is lost."""
    async with httpx.AsyncClient(transport=_Losing()) as client:
        yield client
