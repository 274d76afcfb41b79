"""Which sessions an owner has and which are due, as sorted sets in Redis. Hints: the sessions themselves decide.

An entry is made before its session and removed after it, so a crash can leave one without a session, never the other
way round; whoever meets such an entry removes it.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from carousel.errors import CarouselError
from carousel.state.redis_link import RedisLink
from carousel.state.store import Row

_EXPIRIES = "carousel:expiries"
_SEPARATOR = "\0"  # before every character of an id, so that entries sort as ids do


@dataclass(frozen=True, slots=True)
class Entry:
    id: str
    incarnation: int
    owner: str
    at: float  # when it was made or is due, by the set that it comes from

    @classmethod
    def of(cls, row: Row) -> "Entry":
        return cls(row.id, row.incarnation, row.owner, row.created_at)


class RedisIndex:
    """Two sorted sets: by owner and time of creation, by expiry."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def add(self, row: Row) -> None:
        entry = Entry.of(row)
        await asyncio.gather(
            self._link.run(lambda client: client.zadd(_owned(row.owner), {_short(entry): row.created_at})),
            self._link.run(lambda client: client.zadd(_EXPIRIES, {_long(entry): row.expires_at})),
        )

    async def remove(self, entry: Entry) -> None:
        """Never raises: what is left is met again."""
        with contextlib.suppress(CarouselError):
            await asyncio.gather(
                self._link.run(lambda client: client.zrem(_owned(entry.owner), _short(entry))),
                self._link.run(lambda client: client.zrem(_EXPIRIES, _long(entry))),
            )

    async def postpone(self, entry: Entry, expires_at: float) -> None:
        await self._link.run(lambda client: client.zadd(_EXPIRIES, {_long(entry): expires_at}, xx=True))

    async def find_owned(self, owner: str, since: float, skip: int, count: int) -> list[Entry]:
        """In order of (created_at, id), from created_at on."""
        found = await self._range(_owned(owner), since, float("inf"), skip, count)
        return [_read((*member.decode().split(_SEPARATOR, 1), owner), score) for member, score in found]

    async def find_due(self, now: float, count: int) -> list[Entry]:
        found = await self._range(_EXPIRIES, 0, now, 0, count)
        return [_read(tuple(member.decode().split(_SEPARATOR, 2)), score) for member, score in found]

    async def count(self) -> int:
        return int(await self._link.run(lambda client: client.zcard(_EXPIRIES)))

    async def _range(self, key: str, low: float, high: float, skip: int, count: int) -> Any:
        return await self._link.run(
            lambda client: client.zrangebyscore(key, repr(low), repr(high), start=skip, num=count, withscores=True)
        )


def _owned(owner: str) -> str:
    return f"carousel:owner:{{{quote(owner, safe='')}}}"


def _short(entry: Entry) -> str:
    return f"{entry.id}{_SEPARATOR}{entry.incarnation}"


def _long(entry: Entry) -> str:
    return f"{_short(entry)}{_SEPARATOR}{entry.owner}"


def _read(words: tuple[str, ...], score: float) -> Entry:
    session_id, incarnation, owner = words
    return Entry(session_id, int(incarnation), owner, float(score))
