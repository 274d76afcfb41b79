"""Sessions in a Redis or Valkey that several servers share: any of them may take any session, and none that is stale,
paused or cut off can overwrite what another wrote.

A session is two hashes with its id as hash tag. A turn costs two round trips: `take` raises the session's epoch and
`commit` compares it; the lease between them only keeps others waiting. What survives a crash of Redis is Redis's
configuration to say (appendonly, appendfsync, replicas).
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from carousel.errors import CarouselError, SessionExists, SessionMoved, StoreInvalid, StoreUnavailable
from carousel.state.recent import Recent
from carousel.state.redis_index import Entry, RedisIndex
from carousel.state.redis_link import RedisLink
from carousel.state.store import Change, Durability, Ending, EndReason, Held, Parts, Row

_FORMAT = 1
_MAX_DUE = 256
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.005, 0.25
_YOUNG_SECONDS = 60.0  # an index entry without a session may be of one that is being made
_CACHE_BYTES = 256 * 2**20
_ROW_FIELDS = ("owner", "incarnation", "revision", "position", "created_at", "updated_at", "expires_at")
_READ_FIELDS = (*_ROW_FIELDS, "ending", "ended_at", "epoch", "tokens")  # as in take.lua
_EPOCH, _TOKENS = _READ_FIELDS.index("epoch"), _READ_FIELDS.index("tokens")


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds."""

    lease: float = 10.0  # how long others wait for a server that does not answer
    time_out: float = 2.0  # of one attempt
    patience: float = 5.0  # how long a finished turn tries to be committed
    ending: float = 3600.0  # how long an ending is remembered


class RedisStore:
    """A SessionStore without a capacity of its own: the operator gives Redis its memory."""

    durability = Durability.EACH_TURN
    is_immediate = False

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        timing: Timing | None = None,
        cache_bytes: int = _CACHE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises StoreInvalid when the extra `redis` is not installed."""
        self._timing = timing or Timing()
        self._link = RedisLink(url, username, password, self._timing.time_out)
        self._index = RedisIndex(self._link)
        self._clock = clock
        self._server = secrets.token_hex(8)
        self._recent: Recent[tuple[str, Parts]] = Recent(cache_bytes)  # parts, and the change that led to them
        self._leases: dict[str, int] = {}  # session id -> epoch
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"RedisStore({self._link}, {len(self._leases)} leases, {self._recent})"

    async def start(self) -> None:
        await self._link.open()
        try:
            await self._link.run(lambda client: client.setnx("carousel:format", _FORMAT))
            found = await self._link.run(lambda client: client.get("carousel:format"))
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

    async def create(self, row: Row, parts: Parts) -> list[Ending]:
        await self._index.add(row)
        fields = list(chain.from_iterable((name, _write(getattr(row, name))) for name in _ROW_FIELDS))
        arguments = (
            self._kept_ms(row),
            str(row.incarnation),
            secrets.token_hex(8),
            len(fields),
            *fields,
            *_flat(parts),
        )
        reply = await self._link.call("create", _keys(row.id), arguments, self._timing.patience)
        if reply == b"exists":
            await self._remove_if_stale(Entry.of(row))
            raise SessionExists(f"session {row.id} exists already")
        return []

    async def read(self, session_id: str) -> Row | Ending | None:
        return _read_row(session_id, await self._link.execute("HMGET", _keys(session_id)[0], *_READ_FIELDS))

    async def take(self, session_id: str) -> Held | Ending | None:
        pause = _MIN_PAUSE_SECONDS
        while True:
            known = self._recent.get(session_id)
            kind, *reply = await self._try_take(session_id, known[0] if known is not None else "")
            if kind == b"held":
                return self._hold(session_id, reply[0], reply[1], known)
            if kind == b"ended":
                ending = _read_row(session_id, reply[0])
                return ending if isinstance(ending, Ending) else None
            if kind == b"missing":
                return None
            await asyncio.sleep(min(pause * random.uniform(0.5, 1), reply[0] / 1000))
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def commit(self, held: Held, change: Change) -> None:
        row, token = change.row, secrets.token_hex(8)
        moments = (_write(row.updated_at), _write(row.expires_at))
        condition = (str(held.row.incarnation), held.row.revision, held.epoch, token)
        fields = (self._kept_ms(row), row.revision, row.position, *moments)
        arguments = (*condition, *fields, len(change.drop), *change.drop, *_flat(change.put))
        self._recent.drop(row.id)  # what is stored is not known until the answer is here
        try:
            reply = await self._link.call("commit", _keys(row.id), arguments, self._timing.patience)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error}; whether the turn was stored is not known", in_doubt="true") from error
        if reply == b"forgotten":
            raise StoreUnavailable(
                "the session has moved on far; whether the turn was stored is not known", in_doubt="true"
            )
        self._forget(held)
        if reply != b"ok":
            raise SessionMoved(f"session {row.id} was changed while the turn ran")
        dropped = set(change.drop)
        parts = {name: part for name, part in held.parts.items() if name not in dropped} | dict(change.put)
        self._recent.put(row.id, (token, parts), _weigh(parts))

    async def release(self, held: Held) -> None:
        if self._leases.get(held.row.id) == held.epoch:
            self._forget(held)
            await self._give_back(held.row.id, held.epoch)

    async def end(self, row: Row, reason: EndReason, now: float) -> bool:
        arguments = (
            str(row.incarnation),
            reason.value,
            _write(now),
            secrets.token_hex(8),
            int(1000 * self._timing.ending),
        )
        was_there = bool(await self._link.call("end", _keys(row.id), arguments))
        self._recent.drop(row.id)
        await self._index.remove(Entry.of(row))
        return was_there

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        rows: list[Row] = []
        num_seen = 0
        while len(rows) < count:
            entries = await self._index.find_owned(owner, after[0], num_seen, count)
            num_seen += len(entries)
            alive = await self._match([entry for entry in entries if (entry.at, entry.id) > after])
            rows += [row for row in alive.values() if row is not None]
            stale = [entry for entry, row in alive.items() if row is None and self._clock() > entry.at + _YOUNG_SECONDS]
            await asyncio.gather(*(self._index.remove(entry) for entry in stale))
            num_seen -= len(stale)
            if len(entries) < count:
                break
        return list(islice(rows, count))

    async def due(self, now: float) -> list[Row]:
        while entries := await self._index.find_due(now, _MAX_DUE):
            alive = await self._match(entries)
            expired = [row for row in alive.values() if row is not None and row.expires_at <= now]
            await asyncio.gather(*(self._tidy(entry, row, now) for entry, row in alive.items()))
            if expired:
                return expired
        return []

    async def excess(self) -> list[Row]:
        return []  # Redis has its own memory

    async def num_live(self) -> int:
        return await self._index.count()

    def durable_position(self, row: Row) -> int:
        return row.position

    async def _remove_if_stale(self, entry: Entry) -> None:
        if (await self._match([entry]))[entry] is None:
            await self._index.remove(entry)

    async def _match(self, entries: list[Entry]) -> dict[Entry, Row | None]:
        """The sessions that the entries stand for; None where it is gone."""
        found = await asyncio.gather(*(self.read(entry.id) for entry in entries))
        return {
            entry: row if isinstance(row, Row) and row.incarnation == entry.incarnation else None
            for entry, row in zip(entries, found, strict=True)
        }

    async def _tidy(self, entry: Entry, row: Row | None, now: float) -> None:
        if row is None:
            await self._index.remove(entry)
        elif row.expires_at > now:  # used since; its place moves only here and not at every turn
            await self._index.postpone(entry, row.expires_at)

    async def _try_take(self, session_id: str, known_token: str) -> Any:
        """Cancelled or not, the call runs to its end: a lease that nobody knows of would keep others waiting."""
        arguments = (self._server, int(1000 * self._timing.lease), known_token)
        task = self._spawn(self._link.call("take", _keys(session_id), arguments), "take")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._drop_reply(session_id, done))
            raise

    def _drop_reply(self, session_id: str, done: "asyncio.Task[Any]") -> None:
        if not done.cancelled() and done.exception() is None and done.result()[0] == b"held":
            self._spawn(self._give_back(session_id, int(done.result()[1][_EPOCH])), "give-back")

    def _hold(self, session_id: str, values: Any, flat: list[bytes], known: tuple[str, Parts] | None) -> Held:
        token = values[_TOKENS][:16].decode()
        if known is not None and known[0] == token:
            parts = known[1]
        else:
            parts = {name.decode(): part for name, part in zip(flat[::2], flat[1::2], strict=True)}
            self._recent.put(session_id, (token, parts), _weigh(parts))
        row = _read_row(session_id, values)
        assert isinstance(row, Row)
        held = Held(row, parts, int(values[_EPOCH]))
        self._leases[session_id] = held.epoch
        return held

    def _forget(self, held: Held) -> None:
        if self._leases.get(held.row.id) == held.epoch:
            del self._leases[held.row.id]

    async def _give_back(self, session_id: str, epoch: int) -> None:
        with contextlib.suppress(CarouselError):  # the lease ends by itself
            await self._link.call("release", _keys(session_id)[:1], (epoch,))

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._timing.lease / 3)
            await asyncio.gather(*(self._renew(*lease) for lease in list(self._leases.items())))

    async def _renew(self, session_id: str, epoch: int) -> None:
        """A lease that is lost is not renewed again, and the turn's commit will be refused."""
        try:
            is_ours = await self._link.call("renew", _keys(session_id)[:1], (epoch, int(1000 * self._timing.lease)))
        except CarouselError:
            return
        if not is_ours and self._leases.get(session_id) == epoch:
            del self._leases[session_id]

    def _kept_ms(self, row: Row) -> int:
        """From now on, so that the clock of Redis does not matter."""
        return int(1000 * (row.expires_at - row.updated_at + self._timing.ending))

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _keys(session_id: str) -> tuple[str, str]:
    return f"carousel:{{{session_id}}}:row", f"carousel:{{{session_id}}}:parts"


def _read_row(session_id: str, values: Any) -> Row | Ending | None:
    """`values` are those of _READ_FIELDS."""
    owner, incarnation, revision, position, created_at, updated_at, expires_at, ending, ended_at, *_ = values
    if incarnation is None:
        return None
    if ending is not None:
        return Ending(session_id, owner.decode(), EndReason(ending.decode()), float(ended_at))
    moments = (float(created_at), float(updated_at), float(expires_at))
    return Row(session_id, owner.decode(), int(incarnation), int(revision), int(position), *moments)


def _write(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _flat(parts: Parts) -> chain[str | bytes]:
    return chain.from_iterable(parts.items())


def _weigh(parts: Parts) -> int:
    return 400 + sum(len(part) for part in parts.values())
