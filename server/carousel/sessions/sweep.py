"""Ends due sessions even when no requests come, and checks the store's health."""

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
    """Sweeps once a second, without end, and awaits `swept` after each sweep. Notes a store that does not answer, and
    tries again. Raises any other error."""
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
