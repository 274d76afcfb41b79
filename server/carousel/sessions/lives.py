"""The life of sessions: made, looked at, forked, rewound, sealed, ended. No turn runs here."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from carousel import errors
from carousel.errors import InvalidRequest, SessionMoved, StoreUnavailable
from carousel.metrics import Metrics
from carousel.sessions.events import EventHub, EventKind, SessionEvent
from carousel.sessions.ledger import Ledger
from carousel.sessions.order import TurnOrder
from carousel.sessions.sealing import Opened, Sealer
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Change, Ending, EndReason, Held, Row, SessionStore
from carousel.turns import Snapshot

_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_MAX_FORKS = 100
_MAX_MARKS = 16
_ENDINGS = {
    EndReason.DELETED: (errors.SessionDeleted, EventKind.DELETED),
    EndReason.IDLE: (errors.SessionExpired, EventKind.EXPIRED),
    EndReason.AGE: (errors.SessionExpired, EventKind.EXPIRED),
    EndReason.EVICTED: (errors.SessionEvicted, EventKind.EVICTED),
}


@dataclass(frozen=True, slots=True)
class Point:
    """A moment in a session's past: a position, a named checkpoint, or (neither) now."""

    position: int | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """Where a session can go back to."""

    row: Row
    positions: tuple[int, ...]
    marks: dict[str, int]


class Lives:
    """Sessions at rest, for callers that a transport has identified."""

    def __init__(
        self,
        store: SessionStore,
        ledger: Ledger,
        codec: SnapshotCodec,
        sealer: Sealer,
        order: TurnOrder,
        hub: EventHub,
        clock: Callable[[], float],
        metrics: Metrics,
        *,
        replays_seals: bool,
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.codec = codec
        self.hub = hub
        self.clock = clock
        self._sealer = sealer
        self._order = order
        self._metrics = metrics
        self._replays_seals = replays_seals
        self._used_seals: dict[str, float] = {}  # blob id -> when it expires anyway

    def durable_position(self, row: Row) -> int:
        return self.store.durable_position(row)

    async def create(self, owner: str, session_id: str, snapshot: Snapshot | bytes) -> Row:
        """Raises InvalidRequest for a malformed id, SessionExists, Overloaded at the limit of live sessions."""
        _check_name("session_id", session_id or "made")
        await self.expire()
        incarnation = secrets.randbits(62)
        blob = snapshot if isinstance(snapshot, bytes) else self.codec.encode(snapshot)
        new_id = session_id or secrets.token_urlsafe(18)
        row, parts = self.ledger.open(new_id, owner, incarnation, blob, self.clock())
        for ending in await self.store.create(row, parts):
            self._tell(ending)
        self._metrics.session_created()
        self.hub.publish(SessionEvent(EventKind.CREATED, row.id, owner, row.created_at))
        await self._count()
        return row

    async def get(self, owner: str, session_id: str) -> Row:
        """Raises SessionNotFound for an unknown id and for another owner's, and the SessionEnded of one that was."""
        if not _NAME.fullmatch(session_id):
            raise self._missing(None, owner, session_id)  # no store shall see what can be no id
        found = await self.store.read(session_id)
        return await self._check(found, owner, session_id)

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> Sequence[Row]:
        await self.expire()
        return await self.store.list_owned(owner, after, count)

    async def delete(self, owner: str, session_id: str) -> None:
        await self._end(await self.get(owner, session_id), EndReason.DELETED)

    @contextlib.asynccontextmanager
    async def take(self, owner: str, session_id: str) -> AsyncIterator[Held]:
        """The session for one change, in order of arrival. It is given back unless `commit` was called."""
        if not self.store.is_immediate or self._order.is_held(session_id):
            await self.get(owner, session_id)  # a stranger must not wait in the owner's line
        async with self._order.hold(session_id):
            held = await self.store.take(session_id)
            if not isinstance(held, Held):
                raise self._missing(held, owner, session_id)
            try:
                await self._check(held.row, owner, session_id)
                yield held
            finally:
                await self.store.release(held)

    async def commit(self, held: Held, change: Change) -> Row:
        """Raises SessionMoved, StoreUnavailable, or the SessionEnded of a session that ended meanwhile. Goes on to the
        end also when the caller is cancelled: the session is not given back with a write in doubt."""
        row = await self._check(change.row, held.row.owner, held.row.id)
        try:
            work = self.store.commit(held, change)
            await (work if self.store.is_immediate else _finish(work))
        except SessionMoved:
            found = await self.store.read(row.id)
            if isinstance(found, Ending):
                raise self._missing(found, row.owner, row.id) from None
            raise
        return row

    async def history(self, owner: str, session_id: str) -> History:
        async with self.take(owner, session_id) as held:
            return self._history(held.row, held)

    async def fork(self, owner: str, session_id: str, point: Point, new_ids: Sequence[str], count: int) -> list[Row]:
        """New sessions that stand where this one stood at the point, all or none. Each copies one snapshot."""
        count = count or max(1, len(new_ids))
        if not 1 <= count <= _MAX_FORKS:
            raise InvalidRequest("count", f"must be from 1 to {_MAX_FORKS}, not {count}")
        if new_ids and len(new_ids) != count:
            raise InvalidRequest("new_session_ids", f"{len(new_ids)} ids for {count} sessions")
        for new_id in filter(None, new_ids):
            _check_name("new_session_ids", new_id)
        async with self.take(owner, session_id) as held:
            snapshot = self.ledger.find(held, point.position, point.mark)
        rows: list[Row] = []
        try:
            for new_id in new_ids or [""] * count:
                rows.append(await self.create(owner, new_id, snapshot))
        except errors.CarouselError:
            for row in rows:
                with contextlib.suppress(StoreUnavailable):
                    await self._end(row, EndReason.DELETED)
            raise
        return rows

    async def rewind(self, owner: str, session_id: str, point: Point, expected_position: int | None) -> Row:
        """Go back to the point; what came after it is forgotten."""
        async with self.take(owner, session_id) as held:
            check_position(held.row, expected_position)
            return await self.commit(
                held, self.ledger.rewind(held, self.ledger.find(held, point.position, point.mark), self.clock())
            )

    async def mark(self, owner: str, session_id: str, name: str) -> Row:
        """Keep the current position under a name until the session ends or the name is used again."""
        _check_name("checkpoint", name)
        async with self.take(owner, session_id) as held:
            if name not in (marks := self.ledger.marks(held)) and len(marks) >= _MAX_MARKS:
                raise InvalidRequest("checkpoint", f"a session has at most {_MAX_MARKS} checkpoints")
            return await self.commit(held, self.ledger.mark(held, name, self.clock()))

    async def export(self, owner: str, session_id: str, point: Point, ttl_seconds: float) -> tuple[bytes, int]:
        """The state at the point, sealed for its owner, and its position."""
        if not 0 < ttl_seconds <= 366 * 86_400:
            raise InvalidRequest("ttl", "must be above 0 and at most 366 days")
        async with self.take(owner, session_id) as held:
            snapshot = self.ledger.find(held, point.position, point.mark)
        return self.seal(snapshot, owner, ttl_seconds), self.codec.position(snapshot)

    async def import_state(self, owner: str, blob: bytes, session_id: str) -> Row:
        """A new session that stands where the sealed state stood."""
        opened = self.unseal(blob, owner)
        try:
            return await self.create(owner, session_id, opened.snapshot)
        except BaseException:
            self.forgive(opened)
            raise

    def seal(self, snapshot: bytes, owner: str, ttl_seconds: float) -> bytes:
        return self._sealer.seal(snapshot, owner, self.clock() + ttl_seconds)

    def unseal(self, blob: bytes, owner: str) -> Opened:
        """A sealed state, checked and noted as used. Raises StateRefused or StateInvalid."""
        now = self.clock()
        opened = self._sealer.open(blob, owner, now)
        self.codec.decode(opened.snapshot)
        if not self._replays_seals:
            self._used_seals = {blob_id: expiry for blob_id, expiry in self._used_seals.items() if expiry > now}
            if opened.blob_id in self._used_seals:
                raise errors.StateRefused("the sealed state was used before", why="replayed")
            self._used_seals[opened.blob_id] = opened.expires_at
        return opened

    def forgive(self, opened: Opened) -> None:
        """Nothing came of its use, so it may be used again."""
        self._used_seals.pop(opened.blob_id, None)

    async def expire(self) -> None:
        """End the sessions whose time has come, and those beyond the store's capacity."""
        now = self.clock()
        while rows := await self.store.due(now):
            for row in rows:
                await self._end(row, self._why_expired(row))
        for row in await self.store.excess():
            await self._end(row, EndReason.EVICTED)

    def _why_expired(self, row: Row) -> EndReason:
        is_old = row.expires_at >= row.created_at + self.ledger.retention.lifetime_seconds
        return EndReason.AGE if is_old else EndReason.IDLE

    async def _end(self, row: Row, reason: EndReason) -> None:
        now = self.clock()
        if await self.store.end(row, reason, now):
            self._tell(Ending(row.id, row.owner, reason, now))
            await self._count()

    async def _count(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # what was done is done, counted or not
            self._metrics.num_live_sessions(await self.store.num_live())

    async def _check(self, found: Row | Ending | None, owner: str, session_id: str) -> Row:
        if not isinstance(found, Row) or found.owner != owner:
            raise self._missing(found, owner, session_id)
        if found.expires_at <= self.clock():
            reason = self._why_expired(found)
            await self._end(found, reason)
            raise self._missing(Ending(found.id, owner, reason, found.expires_at), owner, session_id)
        return found

    def _missing(self, found: Row | Ending | None, owner: str, session_id: str) -> errors.CarouselError:
        if not isinstance(found, Ending) or found.owner != owner:
            return errors.SessionNotFound(f"there is no session {session_id}")
        kind, _ = _ENDINGS[found.reason]
        text = f"session {session_id} has ended: {found.reason}"
        return kind(text, ending=found.reason, ended_at=f"{found.at:.3f}")

    def _tell(self, ending: Ending) -> None:
        _, kind = _ENDINGS[ending.reason]
        self._metrics.session_ended(kind.value)
        self.hub.publish(SessionEvent(kind, ending.id, ending.owner, ending.at))

    def _history(self, row: Row, held: Held) -> History:
        return History(row, tuple(self.ledger.positions(held)), self.ledger.marks(held))


def _check_name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, however often the caller is cancelled meanwhile; its cancellation comes after."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    task.exception()  # looked at: nobody is left to be told
    raise cancelled


def check_position(row: Row, expected_position: int | None) -> None:
    """Raises PositionMismatch with the current one."""
    if expected_position is not None and expected_position != row.position:
        raise errors.PositionMismatch(expected_position, row.position)
