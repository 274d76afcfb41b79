"""Ends sessions whose time has come also when nobody asks for anything, and asks the store how it is."""

import asyncio
from collections.abc import Awaitable, Callable

from carousel.errors import StoreUnavailable
from carousel.metrics import Metrics
from carousel.readiness import StoreHealth
from carousel.sessions.operations import SessionOperations

_SECONDS = 1.0


async def sweep(
    operations: SessionOperations, health: StoreHealth, metrics: Metrics, swept: Callable[[], Awaitable[None]]
) -> None:
    """For ever, once a second; `swept` is awaited after each time. A store that does not answer is noted, and asked
    again; any other error is the caller's."""
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            await operations.expire()
            metrics.num_held_sessions(operations.num_held)
            metrics.num_live_sessions(await operations.num_live())
        except StoreUnavailable as error:
            health.probe_failed(error)
        else:
            health.probe_succeeded()
        await swept()
