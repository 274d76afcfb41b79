"""The sessions that this server holds in Redis, and its place in line for those that another server holds.

A lease makes others wait; the fence is the epoch, which every take raises and `commit` compares.
"""

import asyncio
import contextlib
import random
import secrets
from typing import Any

from carousel.errors import CarouselError
from carousel.state.redis_link import RedisLink
from carousel.state.redis_rows import EPOCH, Key, keys_of
from carousel.state.redis_terms import Terms
from carousel.state.redis_work import RedisWork

_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.005, 0.25


class RedisLeases:
    """Takes leases, renews them while turns run, releases them."""

    def __init__(self, link: RedisLink, terms: Terms, work: RedisWork) -> None:
        self._link = link
        self._terms = terms
        self._work = work
        self._server = secrets.token_hex(8)
        self._epochs: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._epochs)

    async def acquire(self, key: Key, known_token: str) -> Any:
        """Returns the reply of acquire.lua, once no other server holds the session. A cancelled call leaves no lease
        and no place in line."""
        pause, is_in_line = _MIN_PAUSE_SECONDS, False
        try:
            while True:
                kind, *reply = await self._try(key, known_token)
                if kind == b"held":
                    self._epochs[key] = int(reply[0][EPOCH])
                if kind != b"busy":
                    is_in_line = False
                    return (kind, *reply)
                is_in_line = True
                await asyncio.sleep(min(pause * random.uniform(0.5, 1), reply[0] / 1000))
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
        finally:
            if is_in_line:
                self._work.begin(self._leave(key), "leave")

    def forget(self, key: Key, epoch: int) -> bool:
        """Returns whether the lease was held until now."""
        if self._epochs.get(key) != epoch:
            return False
        del self._epochs[key]
        return True

    async def give_back(self, key: Key, epoch: int) -> None:
        """Never raises: the lease expires by itself."""
        with contextlib.suppress(CarouselError):
            await self._link.call("release", keys_of(key)[:1], (epoch,))

    async def keep(self) -> None:
        """Renews the held leases, without end."""
        while True:
            await asyncio.sleep(self._terms.lease / 3000)
            await asyncio.gather(*(self._renew(*lease) for lease in list(self._epochs.items())))

    async def close(self) -> None:
        await asyncio.gather(*(self.give_back(*lease) for lease in self._epochs.items()))
        self._epochs.clear()

    async def _try(self, key: Key, known_token: str) -> Any:
        """The call runs to its end even when cancelled: an unknown lease would make others wait."""
        terms = self._terms
        arguments = (self._server, terms.lease, known_token, terms.ending, terms.place)
        task = self._work.begin(self._link.call("acquire", keys_of(key), arguments), "acquire")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._drop_reply(key, done))
            raise

    def _drop_reply(self, key: Key, done: "asyncio.Task[Any]") -> None:
        if done.cancelled() or done.exception() is not None:
            return
        kind, *reply = done.result()
        if kind == b"held":
            self._work.begin(self.give_back(key, int(reply[0][EPOCH])), "give-back")
        elif kind == b"busy":
            self._work.begin(self._leave(key), "leave")

    async def _leave(self, key: Key) -> None:
        with contextlib.suppress(CarouselError):  # the place soon expires by itself
            await self._link.call("leave", keys_of(key)[:1], (self._server,))

    async def _renew(self, key: Key, epoch: int) -> None:
        """Renews one lease. A lost lease is not renewed again, and the turn's commit will be refused."""
        try:
            arguments = (epoch, self._terms.lease, self._terms.ending)
            is_ours = await self._link.call("renew", keys_of(key), arguments)
        except CarouselError:
            return
        if not is_ours:
            self.forget(key, epoch)
