"""Sessions in a Redis or Valkey that several servers share: any server may take any session, and no stale, paused or
disconnected server can overwrite what another wrote.

A turn costs two round trips: `take` raises the session's epoch and `commit` compares it; the lease between them only
makes others wait. The clock is that of Redis, in its scripts. Redis's configuration decides what survives a crash of
Redis (appendonly, appendfsync, replicas).
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from carousel.errors import CarouselError, SessionMoved, StoreInvalid, StoreUnavailable
from carousel.shares import LimitsByOwner, OwnerLimits
from carousel.state.recent import Recent
from carousel.state.redis_births import RedisBirths
from carousel.state.redis_deeds import Intent, RedisDeeds
from carousel.state.redis_endings import RedisEndings
from carousel.state.redis_index import RedisIndex
from carousel.state.redis_leases import RedisLeases
from carousel.state.redis_link import Argument, RedisLink
from carousel.state.redis_rows import EPOCH, TOKENS, Key, flat, keys_of, read_ending, read_row, weigh
from carousel.state.redis_terms import Terms
from carousel.state.redis_terms import Timing as Timing
from carousel.state.redis_work import RedisWork
from carousel.state.store import (
    Birth,
    Change,
    Deed,
    Durability,
    Ending,
    EndReason,
    Held,
    Lifetimes,
    Parts,
    Repeated,
    Row,
)

_FORMAT = 2
_YOUNG_SECONDS = 60.0  # a younger index entry may belong to a session that is being created
_CACHE_BYTES = 256 * 2**20
_NO_LIMITS = OwnerLimits()


class RedisStore:
    """A GroupStore without a capacity of its own: the operator gives Redis its memory. Of an owner's limits it enforces
    the number of sessions."""

    durability = Durability.EACH_TURN
    is_immediate = False
    is_shared = True

    def __init__(
        self,
        url: str,
        lifetimes: Lifetimes,
        *,
        username: str | None = None,
        password: str | None = None,
        timing: Timing,
        cache_bytes: int = _CACHE_BYTES,
        owner_limits: LimitsByOwner = _NO_LIMITS,
    ) -> None:
        """Raises StoreInvalid when the extra `redis` is not installed."""
        self._terms = Terms.of(lifetimes, timing)
        self._work = RedisWork()
        self._link = RedisLink(url, username, password, timing.time_out)
        self._index = RedisIndex(self._link, owner_limits)
        self._deeds = RedisDeeds(self._link)
        self._endings = RedisEndings(self._link, self._index, self._terms, self._work, self._note_gone)
        self._births = RedisBirths(self._link, self._index, self._deeds, self._endings, self._terms, self._work)
        self._leases = RedisLeases(self._link, self._terms, self._work)
        self._recent: Recent[tuple[str, Parts]] = Recent(cache_bytes)  # parts, and the change that led to them
        self._on_ending: Callable[[Ending], None]

    def __repr__(self) -> str:
        return f"RedisStore({self._link}, {len(self._leases)} leases, {self._recent})"

    async def start(self, on_ending: Callable[[Ending], None]) -> None:
        self._on_ending = on_ending
        await self._link.open()
        try:
            await self._link.run(lambda client: client.setnx("carousel2:format", _FORMAT))
            found = await self._link.run(lambda client: client.get("carousel2:format"))
            if found != str(_FORMAT).encode():
                version = found.decode(errors="replace")
                raise StoreInvalid(f"{self._link.address} has format version {version}, this server reads {_FORMAT}")
        except BaseException:
            await self._link.close()
            raise
        self._work.run_beside(self._leases.keep(), "keep-leases")

    async def close(self) -> None:
        await self._work.close()
        await self._leases.close()
        await self._link.close()
        self._recent.clear()

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        if deed is None:
            return await self._births.make(births)
        return await self._work.finish(self._births.carry_out(births, deed), "create")

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        intent = await self._deeds.find(owner, request_id)
        return intent.deed if intent is not None and await self._births.is_done(intent) else None

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        return await self._endings.read((owner, session_id))

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        key = (owner, session_id)
        while True:
            known = self._recent.get(key)
            kind, *reply = await self._leases.acquire(key, known[0] if known is not None else "")
            match kind:
                case b"held":
                    return self._hold(key, reply[0], reply[1], known)
                case b"ended":
                    return read_ending(session_id, reply[0])
                case b"missing":
                    return None
                case _:
                    await self._endings.expire(read_row(session_id, reply[0]))

    async def commit(self, held: Held, change: Change) -> Row:
        (outcome,) = await self.commit_all([(held, change)])
        if isinstance(outcome, CarouselError):
            raise outcome
        return outcome

    async def commit_all(self, changes: Sequence[tuple[Held, Change]]) -> list[Row | CarouselError]:
        tokens = [secrets.token_hex(8) for _ in changes]
        calls = []
        for (held, change), token in zip(changes, tokens, strict=True):
            key = (held.row.owner, held.row.id)
            self._recent.drop(key)  # the stored content is unknown until the answer arrives
            calls.append((keys_of(key), self._terms_of(held, change, token)))
        replies = await self._link.change_all("commit", calls, self._terms.patience_seconds)
        asked = zip(changes, tokens, replies, strict=True)
        return [self._conclude(held, change, token, reply) for (held, change), token, reply in asked]

    def _terms_of(self, held: Held, change: Change, token: str) -> tuple[Argument, ...]:
        condition = (str(held.row.incarnation), held.row.revision, held.epoch, token)
        terms = (self._terms.idle, self._terms.absolute, self._terms.ending)
        return (*condition, *terms, change.position, len(change.drop), *change.drop, *flat(change.put))

    def _conclude(self, held: Held, change: Change, token: str, reply: Any) -> Row | CarouselError:
        key = (held.row.owner, held.row.id)
        if isinstance(reply, CarouselError):
            return reply
        kind, *values = reply
        if kind == b"forgotten":
            return StoreUnavailable(
                "the session has moved on far; it is unknown whether the turn was stored", in_doubt="true"
            )
        self._leases.forget(key, held.epoch)
        if kind != b"ok":
            return SessionMoved(f"session {held.row.id} was changed while the turn ran")
        dropped = set(change.drop)
        kept = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        self._recent.put(key, (token, kept), weigh(kept))
        # After a retried call other turns may have moved the session on: this change reports its own result.
        row = read_row(held.row.id, values[0])
        return replace(row, revision=held.row.revision + 1, position=change.position)

    async def release(self, held: Held) -> None:
        key = (held.row.owner, held.row.id)
        if self._leases.forget(key, held.epoch):
            await self._leases.give_back(key, held.epoch)

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        if reason in (EndReason.IDLE, EndReason.AGE):
            return await self._endings.expire(row)
        if deed is None:
            return await self._endings.end((row.owner, row.id), row.incarnation, reason)
        return await self._work.finish(self._end_once(row.owner, reason, deed), "end")

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        rows: list[Row] = []
        num_seen = 0
        while len(rows) < count:
            entries = await self._index.find_owned(owner, after[0], num_seen, count)
            alive = await self._endings.match([entry for entry in entries if (entry.at, entry.id) > after])
            rows += [row for row in alive.values() if row is not None]
            gone = [entry for entry, row in alive.items() if row is None]
            now = await self._index.now() if gone else 0.0
            stale = [entry for entry in gone if now > entry.at + _YOUNG_SECONDS]
            await self._index.remove(stale)
            num_seen += len(entries) - len(stale)
            if len(entries) < count:
                break
        return rows[:count]

    async def sweep(self, count: int) -> int:
        return await self._endings.sweep(count)

    async def num_live(self) -> int:
        return await self._index.count()

    async def num_bytes(self) -> None:
        return None

    def durable_position(self, row: Row) -> int:
        return row.position

    async def _end_once(self, owner: str, reason: EndReason, deed: Deed) -> bool:
        """Records the deed first; carries out a deed that another server recorded but did not do."""
        mine = Intent(deed)
        intent = await self._deeds.record(mine)
        if intent.deed.fingerprint != deed.fingerprint or intent.births:
            raise Repeated(intent.deed)
        ends = (self._endings.end((owner, one), incarnation, reason) for one, incarnation in intent.deed.targets)
        were_there = await asyncio.gather(*ends)
        if intent.token != mine.token:
            raise Repeated(intent.deed)
        return any(were_there)

    def _hold(self, key: Key, values: Any, pairs: list[bytes], known: tuple[str, Parts] | None) -> Held:
        token = values[TOKENS][:16].decode()
        if known is not None and known[0] == token:
            parts = known[1]
        else:
            parts = {name.decode(): part for name, part in zip(pairs[::2], pairs[1::2], strict=True)}
            self._recent.put(key, (token, parts), weigh(parts))
        return Held(read_row(key[1], values), parts, int(values[EPOCH]))

    def _note_gone(self, key: Key, ending: Ending | None) -> None:
        self._recent.drop(key)
        if ending is not None:
            self._on_ending(ending)
