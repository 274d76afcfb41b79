"""What can happen to a server between two of its calls to Redis: it dies, it gets its answer late, it has to wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from carousel.errors import StoreUnavailable
from carousel.state.redis_store import RedisStore


class Faults:
    """Stands between a store and its Redis and counts calls. `hook` runs before and after each of them."""

    def __init__(self, store: RedisStore) -> None:
        self.num_calls = 0
        self.first_lost, self.num_lost = 0, 0  # the numbers of the calls, counted from 0
        self.is_carried_out = False  # the first of the lost calls takes place; only its answer is lost
        self.hook: Callable[[], Awaitable[None]] | None = None
        self._run = store._link.run
        store._link.run = self._run_or_lose  # type: ignore[method-assign]

    def lose(self, first: int, count: int, *, is_carried_out: bool = False) -> None:
        """Loses the calls from now on."""
        self.num_calls, self.first_lost, self.num_lost = 0, first, count
        self.is_carried_out = is_carried_out

    async def _run_or_lose(self, attempt: Callable[[Any], Awaitable[Any]], patience_seconds: float = 0.0) -> Any:
        number = self.num_calls
        self.num_calls += 1
        if self.hook is not None:
            await self.hook()
        if self.first_lost <= number < self.first_lost + self.num_lost:
            if self.is_carried_out and number == self.first_lost:
                await self._run(attempt, patience_seconds)
            raise StoreUnavailable("the test has cut the line")
        reply = await self._run(attempt, patience_seconds)
        if self.hook is not None:
            await self.hook()
        return reply


async def until_quiet(store: RedisStore) -> None:
    """Waits until the store runs nothing but the renewal of leases."""
    while [task for task in store._work._beside | store._work._whole if task.get_name() != "keep-leases"]:
        await asyncio.sleep(0.001)
