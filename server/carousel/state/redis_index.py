"""Which sessions an owner has and which are due, as sorted sets in Redis. Hints: the sessions themselves decide.

An entry is made before its session and removed after it, so a crash can leave one without a session, never the other
way round; whoever meets such an entry removes it. All moments are by the clock of Redis.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from carousel.errors import CarouselError
from carousel.state.redis_link import RedisLink
from carousel.state.store import Birth, Row

_EXPIRIES = "carousel2:expiries"
_SEPARATOR = "\0"  # before every character of an id, so that entries sort as ids do


@dataclass(frozen=True, slots=True)
class Entry:
    id: str
    incarnation: int
    owner: str
    at: float = 0.0  # when it was made

    @classmethod
    def of(cls, row: Row | Birth) -> "Entry":
        return cls(row.id, row.incarnation, row.owner)


class RedisIndex:
    """Two sorted sets: by owner and time of creation, by expiry."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def add(self, entries: Sequence[Entry], lives_ms: int) -> list[str]:
        """Of one owner; of each the moment, as it is to be written into the session. What was added before, by another
        server or for a try that failed, keeps its moment: pages of a list go by it, and by the session's."""
        found = await self._link.call("enlist", (_EXPIRIES,), (lives_ms, *map(_long, entries)))
        now, key = str(found.decode()), _owned(entries[0].owner)
        members = {_short(entry): float(now) for entry in entries}
        num_new = await self._link.run(lambda client: client.zadd(key, members, nx=True))
        if num_new == len(entries):  # always, but for repeats
            return [now] * len(entries)
        scores = await asyncio.gather(*(self._link.execute("ZSCORE", key, member) for member in members))
        return [now if score is None else f"{float(score):.6f}" for score in scores]

    async def remove(self, entry: Entry) -> bool:
        """Never raises: what is left is met again. Whether it was done."""
        try:
            await asyncio.gather(
                self._link.run(lambda client: client.zrem(_owned(entry.owner), _short(entry))),
                self._link.run(lambda client: client.zrem(_EXPIRIES, _long(entry))),
            )
        except CarouselError:
            return False
        return True

    async def postpone(self, entry: Entry, look_at: float) -> bool:
        """Never raises: it is looked at again soon otherwise. Whether it was done."""
        try:
            await self._link.run(lambda client: client.zadd(_EXPIRIES, {_long(entry): look_at}, xx=True))
        except CarouselError:
            return False
        return True

    async def find_owned(self, owner: str, since: float, skip: int, count: int) -> list[Entry]:
        """In order of (created_at, id), from created_at on."""
        found = await self._link.run(
            lambda client: client.zrangebyscore(
                _owned(owner), repr(since), "inf", start=skip, num=count, withscores=True
            )
        )
        return [_read((*member.decode().split(_SEPARATOR, 1), owner), score) for member, score in found]

    async def find_due(self, count: int) -> tuple[float, list[Entry]]:
        """The moment, and those that are to be looked at."""
        now, members = await self._link.call("due", (_EXPIRIES,), (count,))
        return float(now), [_read(tuple(member.decode().split(_SEPARATOR, 2))) for member in members]

    async def now(self) -> float:
        """By the clock of Redis."""
        moment, _ = await self.find_due(0)
        return moment

    async def count(self) -> int:
        return int(await self._link.run(lambda client: client.zcard(_EXPIRIES)))

    async def count_others(self, entries: Sequence[Entry]) -> int:
        """How many the owner of the entries has beside them."""
        key = _owned(entries[0].owner)
        calls = (self._link.execute("ZSCORE", key, _short(entry)) for entry in entries)
        count, *scores = await asyncio.gather(self._link.execute("ZCARD", key), *calls)
        return int(count) - sum(score is not None for score in scores)


def _owned(owner: str) -> str:
    return f"carousel2:owner:{{{quote(owner, safe='')}}}"


def _short(entry: Entry) -> str:
    return f"{entry.id}{_SEPARATOR}{entry.incarnation}"


def _long(entry: Entry) -> str:
    return f"{_short(entry)}{_SEPARATOR}{entry.owner}"


def _read(words: Any, score: Any = 0.0) -> Entry:
    session_id, incarnation, owner = words
    return Entry(session_id, int(incarnation), owner, float(score))
