"""Ends sessions whose time has come also when nobody asks for anything, and asks the store how it is."""

import asyncio
from collections.abc import Awaitable, Callable

from carousel.errors import StoreUnavailable
from carousel.metrics import Metrics
from carousel.readiness import StoreHealth
from carousel.sessions.lives import Lives

_SECONDS = 1.0


async def sweep(lives: Lives, health: StoreHealth, metrics: Metrics, swept: Callable[[], Awaitable[None]]) -> None:
    """For ever, once a second; `swept` is awaited after each time. A store that does not answer is noted, and asked
    again; any other error is the caller's."""
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            await lives.expire()
            metrics.num_held_sessions(lives.num_held)
            metrics.num_live_sessions(await lives.num_live())
        except StoreUnavailable as error:
            health.probe_failed(error)
        else:
            health.probe_succeeded()
        await swept()
