"""Sessions in a Redis or Valkey that several servers share: any of them may take any session, and none that is stale,
paused or cut off can overwrite what another wrote.

A turn costs two round trips: `take` raises the session's epoch and `commit` compares it; the lease between them only
keeps others waiting. The clock is that of Redis, in its scripts. What survives a crash of Redis is for Redis's
configuration to say (appendonly, appendfsync, replicas).
"""

import asyncio
import contextlib
import enum
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from carousel.errors import CarouselError, Overloaded, SessionExists, SessionMoved, StoreInvalid, StoreUnavailable
from carousel.shares import OwnerLimits
from carousel.state.recent import Recent
from carousel.state.redis_deeds import Intent, RedisDeeds
from carousel.state.redis_index import Entry, RedisIndex
from carousel.state.redis_link import RedisLink
from carousel.state.redis_rows import EPOCH, TOKENS, Key, flat, keys_of, read_ending, read_row, weigh
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
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.005, 0.25
_WAITING_MS = 1_000  # how long a server that waits for a session is let in first
_YOUNG_SECONDS = 60.0  # an index entry without a session may be of one that is being made
_RECHECK_SECONDS = 1.0
_CACHE_BYTES = 256 * 2**20
_NO_LIMITS = OwnerLimits()
_REFUSALS = (SessionExists, Overloaded)  # nothing was made


class _Swept(enum.Enum):
    """What became of an entry that a sweep met."""

    ENDED = "ended"
    LATER = "later"  # it is looked at again when it may be due
    GONE = "gone"  # it was of no session
    STAYS = "stays"  # Redis would not change it, so the next look meets it again


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds."""

    lease: float = 10.0  # how long others wait for a server that does not answer
    time_out: float = 2.0  # of one attempt
    patience: float = 5.0  # how long a finished turn tries to be committed
    ending: float = 3600.0  # how long an ending is remembered


class RedisStore:
    """A SessionStore without a capacity of its own: the operator gives Redis its memory. Of an owner's limits it knows
    the number of sessions."""

    durability = Durability.EACH_TURN
    is_immediate = False

    def __init__(
        self,
        url: str,
        lifetimes: Lifetimes,
        *,
        username: str | None = None,
        password: str | None = None,
        timing: Timing | None = None,
        cache_bytes: int = _CACHE_BYTES,
        owner_limits: OwnerLimits = _NO_LIMITS,
    ) -> None:
        """Raises StoreInvalid when the extra `redis` is not installed."""
        self._timing = timing or Timing()
        self._lifetimes = (int(1000 * lifetimes.idle), int(1000 * lifetimes.absolute))  # ms, as scripts take them
        self._owner_limits = owner_limits
        self._link = RedisLink(url, username, password, self._timing.time_out)
        self._index = RedisIndex(self._link)
        self._deeds = RedisDeeds(self._link)
        self._server = secrets.token_hex(8)
        self._recent: Recent[tuple[str, Parts]] = Recent(cache_bytes)  # parts, and the change that led to them
        self._leases: dict[Key, int] = {}  # epochs
        self._tasks: set[asyncio.Task[Any]] = set()
        self._told: Callable[[Ending], None]

    def __repr__(self) -> str:
        return f"RedisStore({self._link}, {len(self._leases)} leases, {self._recent})"

    async def start(self, told: Callable[[Ending], None]) -> None:
        self._told = told
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
        self._spawn(self._keep_leases(), "keep-leases")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._give_back(*lease) for lease in self._leases.items()))
        await self._link.close()
        self._recent.clear()

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        if deed is None:
            return await self._make_all(births, is_recorded=False)
        intent = await self._deeds.record(Intent(deed, tuple(births)))
        if intent.deed != deed and (intent.deed.fingerprint != deed.fingerprint or await self._is_done(intent)):
            raise Repeated(intent.deed)
        try:
            rows = await self._make_all(intent.births, is_recorded=True)
        except _REFUSALS:
            await self._deeds.forget(deed)
            raise
        await self._deeds.note_done(intent)
        return rows

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        intent = await self._deeds.find(owner, request_id)
        return intent.deed if intent is not None and await self._is_done(intent) else None

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        while True:
            kind, *reply = await self._link.call("look", keys_of((owner, session_id))[:1], ())
            if kind == b"missing":
                return None
            if kind == b"ended":
                return read_ending(session_id, reply[0])
            row = read_row(session_id, reply[0])
            if kind == b"live":
                return row
            await self.end(row, EndReason.IDLE)

    async def take(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        key, pause = (owner, session_id), _MIN_PAUSE_SECONDS
        while True:
            known = self._recent.get(key)
            kind, *reply = await self._try_take(key, known[0] if known is not None else "")
            match kind:
                case b"held":
                    return self._hold(key, reply[0], reply[1], known)
                case b"ended":
                    return read_ending(session_id, reply[0])
                case b"missing":
                    return None
                case b"due":
                    await self.end(read_row(session_id, reply[0]), EndReason.IDLE)
                case _:
                    await asyncio.sleep(min(pause * random.uniform(0.5, 1), reply[0] / 1000))
                    pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def commit(self, held: Held, change: Change) -> Row:
        key, token = (held.row.owner, held.row.id), secrets.token_hex(8)
        condition = (str(held.row.incarnation), held.row.revision, held.epoch, token)
        parts = (len(change.drop), *change.drop, *flat(change.put))
        arguments = (*condition, *self._lifetimes, self._ending_ms, change.position, *parts)
        self._recent.drop(key)  # what is stored is not known until the answer is here
        kind, *reply = await self._in_doubt("turn", self._link.call("commit", keys_of(key), arguments, self._patience))
        if kind == b"forgotten":
            raise StoreUnavailable(
                "the session has moved on far; whether the turn was stored is not known", in_doubt="true"
            )
        self._forget(held)
        if kind != b"ok":
            raise SessionMoved(f"session {held.row.id} was changed while the turn ran")
        dropped = set(change.drop)
        kept = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        self._recent.put(key, (token, kept), weigh(kept))
        return read_row(held.row.id, reply[0])

    async def release(self, held: Held) -> None:
        if self._leases.get((held.row.owner, held.row.id)) == held.epoch:
            self._forget(held)
            await self._give_back((held.row.owner, held.row.id), held.epoch)

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        if deed is None:
            return await self._end(row.owner, row.id, row.incarnation, reason, row.revision)
        try:
            await self._record_end(deed, reason)
        except Overloaded:  # Redis is out of memory: what frees some comes first
            was_there = await self._end(row.owner, row.id, row.incarnation, reason, row.revision)
            with contextlib.suppress(Overloaded):
                await self._deeds.record(Intent(deed))
            return was_there
        return await self._end(row.owner, row.id, row.incarnation, reason, row.revision)

    async def _record_end(self, deed: Deed, reason: EndReason) -> None:
        """Before it is done. Raises Repeated."""
        intent = await self._deeds.record(Intent(deed))
        if intent.deed == deed:
            return
        if intent.deed.fingerprint == deed.fingerprint and not (intent.births or intent.is_done):
            for session_id, incarnation in intent.deed.targets:  # of a server that died before it was done
                await self._end(deed.owner, session_id, incarnation, reason, 0)
        raise Repeated(intent.deed)

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        rows: list[Row] = []
        num_seen = 0
        while len(rows) < count:
            entries = await self._index.find_owned(owner, after[0], num_seen, count)
            alive = await self._match([entry for entry in entries if (entry.at, entry.id) > after])
            rows += [row for row in alive.values() if row is not None]
            gone = [entry for entry, row in alive.items() if row is None]
            now = await self._index.now() if gone else 0.0
            stale = [entry for entry in gone if now > entry.at + _YOUNG_SECONDS]
            await asyncio.gather(*(self._index.remove(entry) for entry in stale))
            num_seen += len(entries) - len(stale)
            if len(entries) < count:
                break
        return rows[:count]

    async def sweep(self, count: int) -> int:
        now, entries = await self._index.find_due(count)
        found = await asyncio.gather(*(self._sweep_one(entry, now) for entry in entries))
        num_ended = found.count(_Swept.ENDED)
        is_more = len(entries) == count and _Swept.STAYS not in found
        return max(num_ended, int(is_more and count > 0))

    async def num_live(self) -> int:
        return await self._index.count()

    def durable_position(self, row: Row) -> int:
        return row.position

    @property
    def _patience(self) -> float:
        return self._timing.patience

    @property
    def _ending_ms(self) -> int:
        return int(1000 * self._timing.ending)

    async def _make_all(self, births: Sequence[Birth], *, is_recorded: bool) -> list[Row]:
        """All, or none when one of them is refused. Where one is in doubt and the deed is recorded, what is made stays:
        a repeat finishes it, and may have done so already, on another server, and told its caller."""
        entries, most = [Entry.of(birth) for birth in births], self._owner_limits.max_sessions
        if most is not None and await self._index.count_others(entries) + len(births) > most:
            text = f"{most} sessions of this caller are live already"
            raise Overloaded(text, limit="max_sessions_per_owner", retry_seconds=10.0)
        moments = await self._index.add(entries, min(self._lifetimes))
        outcomes = await asyncio.gather(*map(self._make, births, moments), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures and is_recorded and not any(isinstance(failure, _REFUSALS) for failure in failures):
            raise failures[0]
        if failures:
            made = [row for row in outcomes if isinstance(row, Row)]
            for row in made:
                with contextlib.suppress(CarouselError):
                    await self.end(row, EndReason.UNDONE)
            refused = [one for one, outcome in zip(entries, outcomes, strict=True) if isinstance(outcome, _REFUSALS)]
            await asyncio.gather(*map(self._index.remove, refused))  # what is in doubt may yet be there
            raise failures[0]
        return [row for row in outcomes if isinstance(row, Row)]

    async def _make(self, birth: Birth, created_at: str) -> Row:
        key = (birth.owner, birth.id)
        facts = (str(birth.incarnation), secrets.token_hex(8), *self._lifetimes, self._ending_ms)
        arguments = (*facts, created_at, birth.owner, birth.position, *flat(birth.parts))
        while True:
            work = self._link.call("create", keys_of(key), arguments, self._patience)
            kind, *reply = await self._in_doubt("session", work)
            if kind == b"ok":
                return read_row(birth.id, reply[0])
            if kind == b"due":
                await self.end(read_row(birth.id, reply[0]), EndReason.IDLE)
                continue
            raise SessionExists(f"session {birth.id} exists already")

    async def _is_done(self, intent: Intent) -> bool:
        """Whether all that the deed is for has come about. A session that is there, or was, has been made; that it was
        is known for as long as its id has not been used again."""
        if intent.is_done:
            return True
        for session_id, incarnation in intent.deed.targets:
            found = await self.read(intent.deed.owner, session_id)
            is_it = found is not None and found.incarnation == incarnation
            if is_it != bool(intent.births) and (intent.births or isinstance(found, Row)):
                return False
        return True

    async def _end(self, owner: str, session_id: str, incarnation: int, reason: EndReason, revision: int) -> bool:
        key = (owner, session_id)
        facts = (str(incarnation), reason.value, secrets.token_hex(8), self._ending_ms, self._lifetimes[1], revision)
        was_there, *reply = await self._in_doubt("end", self._link.call("end", keys_of(key), facts, self._patience))
        if not was_there:
            return False
        self._recent.drop(key)
        await self._index.remove(Entry(session_id, incarnation, owner))
        if reason is not EndReason.UNDONE:
            self._told(Ending(session_id, owner, EndReason(reply[0].decode()), float(reply[1]), incarnation))
        return True

    async def _in_doubt(self, what: str, work: Coroutine[Any, Any, Any]) -> Any:
        """The same call is sent again while there is patience, and finds out whether it was carried out before."""
        try:
            return await work
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error}; whether the {what} was stored is not known", in_doubt="true") from error

    async def _match(self, entries: list[Entry]) -> dict[Entry, Row | None]:
        """The sessions that the entries stand for; None where it is gone."""
        found = await asyncio.gather(*(self.read(entry.owner, entry.id) for entry in entries))
        return {
            entry: row if isinstance(row, Row) and row.incarnation == entry.incarnation else None
            for entry, row in zip(entries, found, strict=True)
        }

    async def _sweep_one(self, entry: Entry, now: float) -> _Swept:
        """What was used since, or is in use, is looked at later."""
        kind, *reply = await self._link.call("look", keys_of((entry.owner, entry.id))[:1], ())
        row = read_row(entry.id, reply[0]) if kind in (b"live", b"due") else None
        if row is None or row.incarnation != entry.incarnation:
            return _Swept.GONE if await self._index.remove(entry) else _Swept.STAYS
        if kind == b"due" and await self.end(row, EndReason.IDLE):
            return _Swept.ENDED
        look_at = max(row.expires_at, now + _RECHECK_SECONDS)
        return _Swept.LATER if await self._index.postpone(entry, look_at) else _Swept.STAYS

    async def _try_take(self, key: Key, known_token: str) -> Any:
        """Cancelled or not, the call runs to its end: a lease that nobody knows of would keep others waiting."""
        lease_ms = int(1000 * self._timing.lease)
        arguments = (self._server, lease_ms, known_token, self._ending_ms, _WAITING_MS)
        task = self._spawn(self._link.call("take", keys_of(key), arguments), "take")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._drop_reply(key, done))
            raise

    def _drop_reply(self, key: Key, done: "asyncio.Task[Any]") -> None:
        if not done.cancelled() and done.exception() is None and done.result()[0] == b"held":
            self._spawn(self._give_back(key, int(done.result()[1][EPOCH])), "give-back")

    def _hold(self, key: Key, values: Any, pairs: list[bytes], known: tuple[str, Parts] | None) -> Held:
        token = values[TOKENS][:16].decode()
        if known is not None and known[0] == token:
            parts = known[1]
        else:
            parts = {name.decode(): part for name, part in zip(pairs[::2], pairs[1::2], strict=True)}
            self._recent.put(key, (token, parts), weigh(parts))
        held = Held(read_row(key[1], values), parts, int(values[EPOCH]))
        self._leases[key] = held.epoch
        return held

    def _forget(self, held: Held) -> None:
        key = (held.row.owner, held.row.id)
        if self._leases.get(key) == held.epoch:
            del self._leases[key]

    async def _give_back(self, key: Key, epoch: int) -> None:
        with contextlib.suppress(CarouselError):  # the lease ends by itself
            await self._link.call("release", keys_of(key)[:1], (epoch,))

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._timing.lease / 3)
            await asyncio.gather(*(self._renew(*lease) for lease in list(self._leases.items())))

    async def _renew(self, key: Key, epoch: int) -> None:
        """A lease that is lost is not renewed again, and the turn's commit will be refused."""
        try:
            arguments = (epoch, int(1000 * self._timing.lease), self._ending_ms)
            is_ours = await self._link.call("renew", keys_of(key), arguments)
        except CarouselError:
            return
        if not is_ours and self._leases.get(key) == epoch:
            del self._leases[key]

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
