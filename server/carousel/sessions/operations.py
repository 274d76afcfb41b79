"""The operations on sessions: create, read, fork, rewind, seal, end. No turn runs here."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from carousel import errors
from carousel.errors import InvalidRequest, StoreUnavailable
from carousel.metrics import Metrics
from carousel.sessions import checks
from carousel.sessions.access import SessionAccess, missing
from carousel.sessions.deeds import check_request_id, check_same, derive_id, draw_id, fingerprint, used_otherwise
from carousel.sessions.endurance import finish
from carousel.sessions.events import EventHub, EventKind, SessionEvent
from carousel.sessions.ledger import Ledger, Origin
from carousel.sessions.pages import Page, read_page
from carousel.sessions.residents import Residents
from carousel.sessions.sealing import Opened, Sealer
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Birth, Change, Deed, Ending, EndReason, Held, Repeated, Row, SessionStore
from carousel.turns import Snapshot

_MAX_MARKS = 16
_MAX_SWEPT = 256  # sessions that end without a pause
_KINDS = {
    EndReason.DELETED: EventKind.DELETED,
    EndReason.IDLE: EventKind.EXPIRED,
    EndReason.AGE: EventKind.EXPIRED,
    EndReason.EVICTED: EventKind.EVICTED,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A point in a session's past: a position, a named checkpoint, or (neither) the present."""

    position: int | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """The points that a session can go back to, and where it comes from."""

    row: Row
    positions: tuple[int, ...]
    marks: dict[str, int]
    origin: Origin | None = None


class SessionOperations:
    """The operations between turns, for callers that a transport has identified."""

    def __init__(
        self,
        access: SessionAccess,
        store: SessionStore,
        residents: Residents,
        ledger: Ledger,
        codec: SnapshotCodec,
        sealer: Sealer,
        hub: EventHub,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        snapshot_bytes: int,
        start: Callable[[], Snapshot],
    ) -> None:
        """`snapshot_bytes` is a snapshot's maximum size; `start` returns the snapshot of every fresh sequence."""
        self._access = access
        self._store = store
        self._residents = residents
        self._ledger = ledger
        self._codec = codec
        self._sealer = sealer
        self._hub = hub
        self._metrics = metrics
        self._clock = clock
        self._snapshot_bytes = snapshot_bytes
        self._start = start

    def tell(self, ending: Ending) -> None:
        """Publishes the end of a session. The store calls it. No caller knows of an undone session."""
        if ending.reason is EndReason.UNDONE:
            return
        self._residents.forget(ending)
        kind = _KINDS[ending.reason]
        self._metrics.session_ended(kind.value)
        self._hub.publish(SessionEvent(kind, ending.id, ending.owner, ending.at))

    def durable_position(self, row: Row) -> int:
        return self._access.durable_position(row)

    def watch(self, owner: str) -> AbstractContextManager[AsyncIterator[SessionEvent]]:
        """Yields the events of the owner's sessions from now on. Both watching and reading raise Overloaded."""
        return self._hub.watch(owner)

    async def create(
        self, owner: str, session_id: str, snapshot: Snapshot | bytes | None = None, request_id: str = ""
    ) -> Row:
        """Creates a session at the snapshot or, without one, at the start. A retry gets the session as it stands now.
        Raises InvalidRequest for a malformed id, SessionExists, Overloaded at a limit of sessions, or SessionEnded when
        a retry finds the session gone."""
        _check_name("session_id", session_id or "made")
        blob = snapshot if isinstance(snapshot, bytes) else self._codec.encode(snapshot or self._start())
        contents = fingerprint("create", session_id)
        if done := await self._recall(owner, request_id, contents):
            return (await self._stand(done))[0]
        return (await self._make(owner, [session_id], blob, request_id, contents))[0]

    async def get(self, owner: str, session_id: str) -> Row:
        """Returns the session's row. Raises SessionNotFound for an unknown id, SessionEnded for an ended session."""
        found = await self._access.read(owner, session_id) if checks.is_name(session_id) else None
        if not isinstance(found, Row):
            raise missing(found, session_id)
        return found

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> Sequence[Row]:
        await self._residents.leave_all(owner)
        return await self._store.list_owned(owner, after, count)

    async def list_page(self, owner: str, size: int, token: str) -> Page:
        """Returns the page of the owner's sessions after the token's page. Raises InvalidRequest."""
        return await read_page(partial(self.list_owned, owner), size, token)

    async def delete(self, owner: str, session_id: str, request_id: str = "") -> None:
        """Deletes the session. A retry never ends a session created since. A running turn is not applied."""
        contents = fingerprint("delete", session_id)
        if await self._recall(owner, request_id, contents):
            return
        try:
            row = await self.get(owner, session_id)
        except errors.SessionEnded:
            # Perhaps this request has ended it, if two attempts run at once.
            if await self._recall(owner, request_id, contents):
                return
            raise
        deed = _deed(owner, request_id, contents, [(row.id, row.incarnation)])
        try:
            was_there = await finish(self._store.end(row, EndReason.DELETED, deed))
        except Repeated as repeated:
            return check_same(repeated.deed, contents)
        if not was_there:  # another caller was faster
            await self.get(owner, session_id)

    async def history(self, owner: str, session_id: str) -> History:
        async with self._access.hold(owner, session_id) as held:
            ledger = self._ledger
            return History(held.row, tuple(ledger.positions(held)), ledger.marks(held), ledger.origin(held))

    async def fork(
        self, owner: str, session_id: str, point: Point, new_ids: Sequence[str], count: int, request_id: str = ""
    ) -> list[Row]:
        """Creates new sessions from this session's snapshot at the point, all or none. Each copies one snapshot and
        knows this session as its origin. A retry gets them as they stand now."""
        count = count or max(1, len(new_ids))
        if not 1 <= count <= checks.MAX_FORKS:
            raise InvalidRequest("count", f"must be from 1 to {checks.MAX_FORKS}, not {count}")
        if new_ids and len(new_ids) != count:
            raise InvalidRequest("new_session_ids", f"{len(new_ids)} ids for {count} sessions")
        for new_id in filter(None, new_ids):
            _check_name("new_session_ids", new_id)
        contents = fingerprint("fork", session_id, point.position, point.mark, tuple(new_ids), count)
        if done := await self._recall(owner, request_id, contents):
            return await self._stand(done)
        async with self._access.hold(owner, session_id) as held:
            snapshot = self._ledger.find(held, point.position, point.mark)
        origin = Origin(session_id, held.row.incarnation, self._codec.position(snapshot))
        return await self._make(owner, new_ids or [""] * count, snapshot, request_id, contents, origin)

    async def rewind(
        self, owner: str, session_id: str, point: Point, expected_position: int | None, request_id: str = ""
    ) -> Row:
        """Goes back to the point and forgets what came after it. A retry does not undo what came since."""

        def change(held: Held) -> Change:
            checks.check_position(held.row.position, expected_position)
            return self._ledger.rewind(held, self._ledger.find(held, point.position, point.mark))

        contents = fingerprint("rewind", point.position, point.mark, expected_position)
        return await self._move(owner, session_id, request_id, contents, change)

    async def mark(self, owner: str, session_id: str, name: str, request_id: str = "") -> Row:
        """Keeps the current position under a name until the session ends or the name is used again. A retry does not
        move it."""
        _check_name("checkpoint", name)

        def change(held: Held) -> Change:
            if name not in (marks := self._ledger.marks(held)) and len(marks) >= _MAX_MARKS:
                raise InvalidRequest("checkpoint", f"a session has at most {_MAX_MARKS} checkpoints")
            return self._ledger.mark(held, name)

        return await self._move(owner, session_id, request_id, fingerprint("mark", name), change)

    async def export(self, owner: str, session_id: str, point: Point, ttl_seconds: float) -> tuple[bytes, int]:
        """Returns the state at the point, sealed for its owner, and its position."""
        if not 0 < ttl_seconds <= 366 * 86_400:
            raise InvalidRequest("ttl", "must be above 0 and at most 366 days")
        async with self._access.hold(owner, session_id) as held:
            snapshot = self._ledger.find(held, point.position, point.mark)
        sealed = self._sealer.seal(snapshot, owner, self._clock() + ttl_seconds)
        return sealed, self._codec.position(snapshot)

    async def import_state(self, owner: str, blob: bytes, session_id: str, request_id: str = "") -> Row:
        """Creates a session from the sealed state. A retry gets it as it stands now."""
        _check_name("session_id", session_id or "made")
        contents = fingerprint("import", blob, session_id)
        if done := await self._recall(owner, request_id, contents):
            return (await self._stand(done))[0]
        now = self._clock()
        opened = self._sealer.open(blob, owner, now)
        self._codec.decode(opened.snapshot)
        self._sealer.note_use(opened, now, request_id.encode() + contents if request_id else b"")
        work = self._import(owner, opened, session_id, request_id, contents)
        return await (finish(work) if request_id else work)  # a request with an id must complete, and settle its seal

    @property
    def num_held(self) -> int:
        """The number of sequences that streams hold or are still giving back."""
        return self._residents.num_slots

    async def num_live(self) -> int:
        """Returns the number of live sessions. Raises StoreUnavailable."""
        return await self._store.num_live()

    async def expire(self) -> None:
        """Ends the sessions that are due and those beyond the store's capacity, in small portions."""
        await self._residents.leave_due()
        while await self._store.sweep(_MAX_SWEPT):
            await asyncio.sleep(0)

    async def _make(
        self,
        owner: str,
        ids: Sequence[str],
        snapshot: bytes,
        request_id: str,
        contents: bytes,
        origin: Origin | None = None,
    ) -> list[Row]:
        """Creates sessions at the snapshot, all or none. An empty id means a random one that cannot be guessed. If the
        caller of a request without an id is cancelled, no session stays."""
        names = [one or _new_id(owner, request_id, number) for number, one in enumerate(ids)]
        births = [self._ledger.open(one, owner, secrets.randbits(62), snapshot, origin) for one in names]
        deed = _deed(owner, request_id, contents, [(birth.id, birth.incarnation) for birth in births])
        try:
            rows = await self._create_or_sweep(births, deed)
        except Repeated as repeated:
            check_same(repeated.deed, contents)
            return await self._stand(repeated.deed)
        for row in rows:
            self._metrics.session_created()
            self._hub.publish(SessionEvent(EventKind.CREATED, row.id, owner, row.created_at))
        return rows

    async def _import(self, owner: str, opened: Opened, session_id: str, request_id: str, contents: bytes) -> Row:
        try:
            (row,) = await self._make(owner, [session_id], opened.snapshot, request_id, contents)
        except (InvalidRequest, errors.SessionExists, errors.Overloaded):
            self._sealer.forgive(opened)  # no session was created; after other errors that is not certain
            raise
        self._sealer.settle(opened)
        return row

    async def _create_or_sweep(self, births: Sequence[Birth], deed: Deed | None) -> list[Row]:
        """Creates the sessions. When there is no room, ends due sessions first and, if the store counts held sessions
        as in use, takes sessions back from streams."""
        try:
            return await self._create(births, deed)
        except errors.Overloaded as refusal:
            has_left = False
            if not self._store.is_immediate:
                owner = births[0].owner if births and refusal.limit.endswith("_per_owner") else None
                has_left = await self._residents.leave_all(owner)
            if not await self._store.sweep(_MAX_SWEPT) and not has_left:
                raise
        return await self._create(births, deed)

    async def _create(self, births: Sequence[Birth], deed: Deed | None) -> list[Row]:
        work = self._store.create(births, deed)
        if self._store.is_immediate:
            return await work
        return await finish(work, undo=None if deed is not None else self._undo)

    async def _undo(self, rows: list[Row]) -> None:
        for row in rows:
            with contextlib.suppress(StoreUnavailable):
                await self._store.end(row, EndReason.UNDONE)

    async def _move(
        self,
        owner: str,
        session_id: str,
        request_id: str,
        contents: bytes,
        plan: Callable[[Held], Change],
    ) -> Row:
        """Changes a session without a turn."""
        check_request_id(request_id)
        async with self._access.hold(owner, session_id, 2 * self._snapshot_bytes) as held:
            if request_id and (move := self._ledger.find_move(held, request_id)):
                if move.fingerprint != contents:
                    raise used_otherwise()
                return replace(held.row, position=move.position)
            if request_id and self._ledger.is_used(held, request_id):
                raise used_otherwise()
            change = plan(held)
            if request_id:
                change = self._ledger.record_move(held, change, request_id, contents)
            return await self._access.commit(held, change)

    async def _recall(self, owner: str, request_id: str, contents: bytes) -> Deed | None:
        """Returns what the request already did, if anything. Raises InvalidRequest if its id was another request's."""
        check_request_id(request_id)
        deed = await self._store.recall(owner, request_id) if request_id else None
        if deed is not None:
            check_same(deed, contents)
        return deed

    async def _stand(self, deed: Deed) -> list[Row]:
        """Returns the sessions that the deed created, as they are now. Raises the error of an ended session, or a plain
        SessionEnded if its ending is no longer known: its id may be in use again."""
        rows = []
        for session_id, incarnation in deed.targets:
            found = await self._access.read(deed.owner, session_id)
            if found is None or found.incarnation != incarnation:
                raise errors.SessionEnded(f"the session {session_id} that the request made has ended")
            if isinstance(found, Ending):
                raise missing(found, session_id)
            rows.append(found)
        return rows


def _deed(owner: str, request_id: str, contents: bytes, targets: Sequence[tuple[str, int]]) -> Deed | None:
    return Deed(owner, request_id, contents.hex(), tuple(targets)) if request_id else None


def _new_id(owner: str, request_id: str, number: int) -> str:
    return derive_id(owner, request_id, number) if request_id else draw_id()


def _check_name(field: str, name: str) -> None:
    if not checks.is_name(name):
        raise InvalidRequest(field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
