"""How sessions end in Redis: by request, by the clock of Redis, or because their creation is undone.

One script decides for each session, so that the clock never ends a session that is in use or held.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence

from carousel.errors import CarouselError
from carousel.state.redis_index import Entry, RedisIndex
from carousel.state.redis_link import RedisLink
from carousel.state.redis_rows import Key, endings_key, keys_of, read_ending, read_row
from carousel.state.redis_terms import Terms
from carousel.state.redis_work import RedisWork
from carousel.state.store import MAX_ENDINGS_PER_OWNER, Ending, EndReason, Row

_RECHECK_SECONDS = 1.0  # for a session that is due but held
_MAX_PORTIONS = 16  # that one sweep checks when it finds nothing to end


class RedisEndings:
    """Ends sessions. `gone` is called once for each session that this server ends, with its ending; not when its
    creation was undone."""

    def __init__(
        self,
        link: RedisLink,
        index: RedisIndex,
        terms: Terms,
        work: RedisWork,
        gone: Callable[[Key, Ending | None], None],
    ) -> None:
        self._link = link
        self._index = index
        self._terms = terms
        self._work = work
        self._gone = gone

    async def read(self, key: Key) -> Row | Ending | None:
        """Returns the row; ends the session when it is due."""
        while True:
            kind, *reply = await self._link.call("look", keys_of(key)[:1], ())
            if kind == b"missing":
                return None
            if kind == b"ended":
                return read_ending(key[1], reply[0])
            row = read_row(key[1], reply[0])
            if kind == b"live":
                return row
            await self.expire(row)

    async def expire(self, row: Row) -> bool:
        """Ends a due session if it is unchanged since it was read. Returns whether it was ended here."""
        return await self.end((row.owner, row.id), row.incarnation, EndReason.IDLE, row.revision)

    async def undo(self, key: Key, incarnation: int) -> None:
        """Undoes the creation of a session that is still unused."""
        await self.end(key, incarnation, EndReason.UNDONE, 0)

    async def end(self, key: Key, incarnation: int, reason: EndReason, revision: int | None = None) -> bool:
        """Returns whether this incarnation existed, at this revision if given. Continues when the caller is
        cancelled."""
        return await self._work.finish(self._end(key, incarnation, reason, revision), "end")

    async def match(self, entries: Sequence[Entry]) -> dict[Entry, Row | None]:
        """Returns the session of each entry; None where it is gone."""
        found = await asyncio.gather(*(self.read((entry.owner, entry.id)) for entry in entries))
        return {
            entry: row if isinstance(row, Row) and row.incarnation == entry.incarnation else None
            for entry, row in zip(entries, found, strict=True)
        }

    async def sweep(self, count: int) -> int:
        """Ends about `count` due sessions and returns how many were ended. Sessions that are held, or used since, are
        checked later."""
        for _ in range(_MAX_PORTIONS):
            now, entries = await self._index.find_due(count)
            looks = await asyncio.gather(*(self._look(entry) for entry in entries))
            pairs = list(zip(entries, looks, strict=True))
            await self._index.remove([entry for entry, look in pairs if look is None])
            later = [(entry, max(look, now + _RECHECK_SECONDS)) for entry, look in pairs if isinstance(look, float)]
            await self._index.postpone(later)
            num_ended = sum(look is True for look in looks)
            if num_ended or len(entries) < count:
                break
        return num_ended

    async def _look(self, entry: Entry) -> bool | float | None:
        """Returns True when the session was ended here, None where it does not exist, otherwise the time until which it
        lives."""
        kind, *reply = await self._link.call("look", keys_of((entry.owner, entry.id))[:1], ())
        row = read_row(entry.id, reply[0]) if kind in (b"live", b"due") else None
        if row is None or row.incarnation != entry.incarnation:
            return None
        if kind == b"due" and await self.expire(row):
            return True
        return row.expires_at

    async def _end(self, key: Key, incarnation: int, reason: EndReason, revision: int | None) -> bool:
        terms = (self._terms.ending, self._terms.absolute, "" if revision is None else revision)
        facts = (str(incarnation), reason.value, secrets.token_hex(8), *terms)
        was_there, *reply = await self._link.change("end", keys_of(key), facts, self._terms.patience_seconds)
        if not was_there:
            return False
        found = EndReason(reply[0].decode())
        ending = Ending(key[1], key[0], found, float(reply[1]), incarnation)
        self._gone(key, ending if found is not EndReason.UNDONE else None)
        await self._index.remove([Entry(key[1], incarnation, key[0])])
        if found is not EndReason.UNDONE:
            await self._bound(key, incarnation)
        return True

    async def _bound(self, key: Key, incarnation: int) -> None:
        """Forgets an owner's oldest ending beyond the bound. Never raises: all endings expire in time."""
        owner, session_id = key
        with contextlib.suppress(CarouselError):
            arguments = (f"{session_id}\0{incarnation}", MAX_ENDINGS_PER_OWNER, self._terms.ending)
            oldest = await self._link.call("remember", (endings_key(owner),), arguments)
            if oldest:
                name, _, number = oldest.decode().partition("\0")
                await self._link.call("forget", keys_of((owner, name))[:1], (number,))
