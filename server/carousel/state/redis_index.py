"""The sessions of each owner and the due sessions, as sorted sets in Redis. They are hints: the sessions themselves
decide.

An entry is created before its session and removed after it, so a crash can leave an entry without a session but never a
session without an entry; any reader of such an entry removes it. All times are by the clock of Redis.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import quote

from carousel.errors import CarouselError, Overloaded
from carousel.shares import LimitsByOwner
from carousel.state.redis_link import RedisLink
from carousel.state.store import Birth, Row

_EXPIRIES = "carousel2:expiries"
_SEPARATOR = "\0"  # before every character of an id, so that entries sort as ids do


@dataclass(frozen=True, slots=True)
class Entry:
    id: str
    incarnation: int
    owner: str
    at: float = 0.0  # time of creation

    @classmethod
    def of(cls, row: Row | Birth) -> "Entry":
        return cls(row.id, row.incarnation, row.owner)


class RedisIndex:
    """Two sorted sets: by owner and time of creation, by expiry."""

    def __init__(self, link: RedisLink, limits: LimitsByOwner) -> None:
        self._link = link
        self._limits = limits

    async def add(self, entries: Sequence[Entry], lives_ms: int) -> list[str]:
        """Adds one owner's entries. Returns each creation time, which the session stores: now, or that of an existing
        entry. Raises Overloaded when the owner has too many others."""
        max_owned = self._limits.of(entries[0].owner).max_sessions
        arguments = ("" if max_owned is None else max_owned, *map(_short, entries))
        kind, *moments = await self._link.call("enlist", (_owned(entries[0].owner),), arguments)
        if kind == b"full":
            text = f"{max_owned} sessions of this caller are live already"
            raise Overloaded(text, limit="max_sessions_per_owner", retry_seconds=10.0)
        await self._link.call("schedule", (_EXPIRIES,), (lives_ms, *map(_long, entries)))
        return [moment.decode() for moment in moments[0]]

    async def remove(self, entries: Sequence[Entry]) -> None:
        """Never raises: remaining entries are removed later."""
        if entries:
            with contextlib.suppress(CarouselError):
                owners = {entry.owner for entry in entries}
                await asyncio.gather(
                    self._link.execute("ZREM", _EXPIRIES, *map(_long, entries)),
                    *(
                        self._link.execute(
                            "ZREM", _owned(owner), *(_short(one) for one in entries if one.owner == owner)
                        )
                        for owner in owners
                    ),
                )

    async def postpone(self, entries: Sequence[tuple[Entry, float]]) -> None:
        """Sets when the entries are checked again. Never raises: otherwise they are checked soon."""
        if entries:
            with contextlib.suppress(CarouselError):
                arguments = chain.from_iterable((repr(look_at), _long(entry)) for entry, look_at in entries)
                await self._link.call("postpone", (_EXPIRIES,), tuple(arguments))

    async def find_owned(self, owner: str, since: float, skip: int, count: int) -> list[Entry]:
        """Returns entries in order of (created_at, id), from created_at on."""
        found = await self._link.run(
            lambda client: client.zrangebyscore(
                _owned(owner), repr(since), "inf", start=skip, num=count, withscores=True
            )
        )
        return [_read((*member.decode().split(_SEPARATOR, 1), owner), score) for member, score in found]

    async def find_due(self, count: int) -> tuple[float, list[Entry]]:
        """Returns the current time, and the entries to check."""
        now, members = await self._link.call("due", (_EXPIRIES,), (count,))
        return float(now), [_read(tuple(member.decode().split(_SEPARATOR, 2))) for member in members]

    async def now(self) -> float:
        """Returns the time by the clock of Redis."""
        moment, _ = await self.find_due(0)
        return moment

    async def count(self) -> int:
        return int(await self._link.run(lambda client: client.zcard(_EXPIRIES)))


def _owned(owner: str) -> str:
    return f"carousel2:owner:{{{quote(owner, safe='')}}}"


def _short(entry: Entry) -> str:
    return f"{entry.id}{_SEPARATOR}{entry.incarnation}"


def _long(entry: Entry) -> str:
    return f"{_short(entry)}{_SEPARATOR}{entry.owner}"


def _read(words: Any, score: Any = 0.0) -> Entry:
    session_id, incarnation, owner = words
    return Entry(session_id, int(incarnation), owner, float(score))
