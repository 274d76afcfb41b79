"""The life of sessions: made, looked at, forked, rewound, sealed, ended. No turn runs here."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from carousel import errors
from carousel.errors import InvalidRequest, SessionMoved, StoreUnavailable
from carousel.metrics import Metrics
from carousel.sessions import checks
from carousel.sessions.carried import CarriedSequences
from carousel.sessions.deeds import check_request_id, check_same, derive_id, draw_id, fingerprint, used_otherwise
from carousel.sessions.endurance import finish
from carousel.sessions.events import EventHub, EventKind, SessionEvent
from carousel.sessions.ledger import Ledger
from carousel.sessions.order import TurnOrder
from carousel.sessions.residents import Residents
from carousel.sessions.sealing import Opened, Sealer, UsedSeals
from carousel.state.codec import SnapshotCodec
from carousel.state.store import Birth, Change, Deed, Ending, EndReason, Held, Repeated, Row, SessionStore
from carousel.turns import Snapshot

_MAX_FORKS = 100
_MAX_MARKS = 16
_MAX_SWEPT = 256  # sessions that are ended without a pause
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
        residents: Residents,
        carried: CarriedSequences,
        *,
        replays_seals: bool,
        penalty_window: int = 64,
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.codec = codec
        self.hub = hub
        self.clock = clock
        self.residents = residents
        self.carried = carried
        self.snapshot_bytes = codec.max_bytes(penalty_window)
        self._sealer = sealer
        self._order = order
        self._metrics = metrics
        self._used_seals = None if replays_seals else UsedSeals()

    def tell(self, ending: Ending) -> None:
        """A session has ended: for the store to call. Of what was undone nobody has heard."""
        if ending.reason is EndReason.UNDONE:
            return
        self.residents.forget(ending)
        _, kind = _ENDINGS[ending.reason]
        self._metrics.session_ended(kind.value)
        self.hub.publish(SessionEvent(kind, ending.id, ending.owner, ending.at))

    def durable_position(self, row: Row) -> int:
        return self.store.durable_position(row)

    async def create(self, owner: str, session_id: str, snapshot: Snapshot | bytes, request_id: str = "") -> Row:
        """A repeated request gets the session as it stands now. Raises InvalidRequest for a malformed id,
        SessionExists, Overloaded at a limit of sessions, or the SessionEnded of one that a repeat finds gone."""
        _check_name("session_id", session_id or "made")
        blob = snapshot if isinstance(snapshot, bytes) else self.codec.encode(snapshot)
        contents = fingerprint("create", session_id)
        if done := await self._recall(owner, request_id, contents):
            return (await self._stand(done))[0]
        return (await self._make(owner, [session_id], blob, request_id, contents))[0]

    async def get(self, owner: str, session_id: str) -> Row:
        """Raises SessionNotFound for an unknown id, and the SessionEnded of one that was."""
        found = await self._read(owner, session_id) if checks.is_name(session_id) else None
        if not isinstance(found, Row):
            raise _missing(found, session_id)
        return found

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> Sequence[Row]:
        await self.residents.leave_all(owner)
        return await self.store.list_owned(owner, after, count)

    async def delete(self, owner: str, session_id: str, request_id: str = "") -> None:
        """A repeated request ends nothing that was made since. A turn that runs on the session is not applied."""
        contents = fingerprint("delete", session_id)
        if await self._recall(owner, request_id, contents):
            return
        try:
            row = await self.get(owner, session_id)
            deed = _deed(owner, request_id, contents, [(row.id, row.incarnation)])
            was_there = await finish(self.store.end(row, EndReason.DELETED, deed))
            if not was_there:  # somebody else was faster
                await self.get(owner, session_id)
        except Repeated as repeated:
            check_same(repeated.deed, contents)
        except errors.SessionEnded:
            # By this very request perhaps, of which two attempts were on their way.
            if not await self._recall(owner, request_id, contents):
                raise

    @contextlib.asynccontextmanager
    async def take(self, owner: str, session_id: str, room: int = 0) -> AsyncIterator[Held]:
        """The session for one change, in order of arrival; it is given back in any case. `room` is the most bytes that
        the change adds."""
        if not checks.is_name(session_id):
            raise _missing(None, session_id)  # malformed ids never reach a store
        async with self._order.hold((owner, session_id)):
            await self.residents.leave((owner, session_id))
            held = await self.store.take(owner, session_id, room)
            if not isinstance(held, Held):
                raise _missing(held, session_id)
            try:
                yield held
            finally:
                await self.store.release(held)

    async def commit(self, held: Held, change: Change) -> Row:
        """Raises SessionMoved, StoreUnavailable, or the SessionEnded of a session that ended meanwhile. Goes on to the
        end also when the caller is cancelled: the session is not given back with a write in doubt."""
        try:
            work = self.store.commit(held, change)
            return await (work if self.store.is_immediate else finish(work))
        except SessionMoved:
            found = await self.store.read(held.row.owner, held.row.id)
            if isinstance(found, Ending):
                raise _missing(found, held.row.id) from None
            raise

    async def history(self, owner: str, session_id: str) -> History:
        async with self.take(owner, session_id) as held:
            return History(held.row, tuple(self.ledger.positions(held)), self.ledger.marks(held))

    async def fork(
        self, owner: str, session_id: str, point: Point, new_ids: Sequence[str], count: int, request_id: str = ""
    ) -> list[Row]:
        """New sessions that stand where this one stood at the point, all or none. Each copies one snapshot. A repeated
        request gets them as they stand now."""
        count = count or max(1, len(new_ids))
        if not 1 <= count <= _MAX_FORKS:
            raise InvalidRequest("count", f"must be from 1 to {_MAX_FORKS}, not {count}")
        if new_ids and len(new_ids) != count:
            raise InvalidRequest("new_session_ids", f"{len(new_ids)} ids for {count} sessions")
        for new_id in filter(None, new_ids):
            _check_name("new_session_ids", new_id)
        contents = fingerprint("fork", session_id, point.position, point.mark, tuple(new_ids), count)
        if done := await self._recall(owner, request_id, contents):
            return await self._stand(done)
        async with self.take(owner, session_id) as held:
            snapshot = self.ledger.find(held, point.position, point.mark)
        return await self._make(owner, new_ids or [""] * count, snapshot, request_id, contents)

    async def rewind(
        self, owner: str, session_id: str, point: Point, expected_position: int | None, request_id: str = ""
    ) -> Row:
        """Go back to the point; what came after it is forgotten. A repeated request undoes nothing that came since."""

        def change(held: Held) -> Change:
            checks.check_position(held.row.position, expected_position)
            return self.ledger.rewind(held, self.ledger.find(held, point.position, point.mark))

        contents = fingerprint("rewind", point.position, point.mark, expected_position)
        return await self._move(owner, session_id, request_id, contents, change)

    async def mark(self, owner: str, session_id: str, name: str, request_id: str = "") -> Row:
        """Keep the current position under a name until the session ends or the name is used again. A repeated request
        does not move it."""
        _check_name("checkpoint", name)

        def change(held: Held) -> Change:
            if name not in (marks := self.ledger.marks(held)) and len(marks) >= _MAX_MARKS:
                raise InvalidRequest("checkpoint", f"a session has at most {_MAX_MARKS} checkpoints")
            return self.ledger.mark(held, name)

        return await self._move(owner, session_id, request_id, fingerprint("mark", name), change)

    async def export(self, owner: str, session_id: str, point: Point, ttl_seconds: float) -> tuple[bytes, int]:
        """The state at the point, sealed for its owner, and its position."""
        if not 0 < ttl_seconds <= 366 * 86_400:
            raise InvalidRequest("ttl", "must be above 0 and at most 366 days")
        async with self.take(owner, session_id) as held:
            snapshot = self.ledger.find(held, point.position, point.mark)
        return self.seal(snapshot, owner, ttl_seconds), self.codec.position(snapshot)

    async def import_state(self, owner: str, blob: bytes, session_id: str, request_id: str = "") -> Row:
        """A new session that stands where the sealed state stood; a repeated request gets it as it stands now."""
        _check_name("session_id", session_id or "made")
        contents = fingerprint("import", blob, session_id)
        if done := await self._recall(owner, request_id, contents):
            return (await self._stand(done))[0]
        opened = self.unseal(blob, owner, request_id.encode() + contents if request_id else b"")
        work = self._import(owner, opened, session_id, request_id, contents)
        return await (finish(work) if request_id else work)  # what can be repeated is settled when it is done

    def seal(self, snapshot: bytes, owner: str, ttl_seconds: float) -> bytes:
        return self._sealer.seal(snapshot, owner, self.clock() + ttl_seconds)

    def unseal(self, blob: bytes, owner: str, request: bytes = b"") -> Opened:
        """A sealed state, checked and noted as used; until it is settled, a repeat of the request may use it. Raises
        StateRefused or StateInvalid."""
        now = self.clock()
        opened = self._sealer.open(blob, owner, now)
        self.codec.decode(opened.snapshot)
        if self._used_seals is not None:
            self._used_seals.note(opened, now, request)
        return opened

    def forgive(self, opened: Opened) -> None:
        """Its use was refused and nothing of it was told, so it may be used again."""
        if self._used_seals is not None:
            self._used_seals.forgive(opened)

    async def expire(self) -> None:
        """End the sessions whose time has come, and those beyond the store's capacity, in small portions."""
        await self.residents.leave_due()
        while await self.store.sweep(_MAX_SWEPT):
            await asyncio.sleep(0)

    async def _read(self, owner: str, session_id: str) -> Row | Ending | None:
        await self.residents.leave((owner, session_id))
        return await self.store.read(owner, session_id)

    async def _make(
        self, owner: str, ids: Sequence[str], snapshot: bytes, request_id: str, contents: bytes
    ) -> list[Row]:
        """Sessions at the snapshot, all or none; an empty id asks for one that nobody can guess. When the caller is
        cancelled, a request that nobody can repeat leaves none."""
        names = [one or _new_id(owner, request_id, number) for number, one in enumerate(ids)]
        births = [self.ledger.open(one, owner, secrets.randbits(62), snapshot) for one in names]
        deed = _deed(owner, request_id, contents, [(birth.id, birth.incarnation) for birth in births])
        try:
            rows = await self._create_or_sweep(births, deed)
        except Repeated as repeated:
            check_same(repeated.deed, contents)
            return await self._stand(repeated.deed)
        for row in rows:
            self._metrics.session_created()
            self.hub.publish(SessionEvent(EventKind.CREATED, row.id, owner, row.created_at))
        return rows

    async def _import(self, owner: str, opened: Opened, session_id: str, request_id: str, contents: bytes) -> Row:
        try:
            (row,) = await self._make(owner, [session_id], opened.snapshot, request_id, contents)
        except (InvalidRequest, errors.SessionExists, errors.Overloaded):
            self.forgive(opened)  # nothing was made; of any other end that is not certain
            raise
        if self._used_seals is not None:
            self._used_seals.settle(opened)
        return row

    async def _create_or_sweep(self, births: Sequence[Birth], deed: Deed | None) -> list[Row]:
        """What is due makes room, and what streams hold without using it, where that keeps it in use."""
        try:
            return await self._create(births, deed)
        except errors.Overloaded as refusal:
            has_left = False
            if not self.store.is_immediate:
                owner = births[0].owner if births and refusal.limit.endswith("_per_owner") else None
                has_left = await self.residents.leave_all(owner)
            if not await self.store.sweep(_MAX_SWEPT) and not has_left:
                raise
        return await self._create(births, deed)

    async def _create(self, births: Sequence[Birth], deed: Deed | None) -> list[Row]:
        work = self.store.create(births, deed)
        if self.store.is_immediate:
            return await work
        return await finish(work, undo=None if deed is not None else self._undo)

    async def _undo(self, rows: list[Row]) -> None:
        for row in rows:
            with contextlib.suppress(StoreUnavailable):
                await self.store.end(row, EndReason.UNDONE)

    async def _move(
        self,
        owner: str,
        session_id: str,
        request_id: str,
        contents: bytes,
        plan: Callable[[Held], Change],
    ) -> Row:
        """A change of a session by other means than a turn."""
        check_request_id(request_id)
        async with self.take(owner, session_id, 2 * self.snapshot_bytes) as held:
            if request_id and (move := self.ledger.find_move(held, request_id)):
                if move.fingerprint != contents:
                    raise used_otherwise()
                return replace(held.row, position=move.position)
            if request_id and self.ledger.is_used(held, request_id):
                raise used_otherwise()
            change = plan(held)
            if request_id:
                change = self.ledger.record_move(held, change, request_id, contents)
            return await self.commit(held, change)

    async def _recall(self, owner: str, request_id: str, contents: bytes) -> Deed | None:
        """What the request did before. Raises InvalidRequest when it was another request."""
        check_request_id(request_id)
        deed = await self.store.recall(owner, request_id) if request_id else None
        if deed is not None:
            check_same(deed, contents)
        return deed

    async def _stand(self, deed: Deed) -> list[Row]:
        """The sessions that the deed made, as they are now. Raises how one ended, or a bare SessionEnded where that is
        not known any more: its id may have been used again since."""
        rows = []
        for session_id, incarnation in deed.targets:
            found = await self._read(deed.owner, session_id)
            if found is None or found.incarnation != incarnation:
                raise errors.SessionEnded(f"the session {session_id} that the request made has ended")
            if isinstance(found, Ending):
                raise _missing(found, session_id)
            rows.append(found)
        return rows


def _deed(owner: str, request_id: str, contents: bytes, targets: Sequence[tuple[str, int]]) -> Deed | None:
    return Deed(owner, request_id, contents.hex(), tuple(targets)) if request_id else None


def _new_id(owner: str, request_id: str, number: int) -> str:
    return derive_id(owner, request_id, number) if request_id else draw_id()


def _missing(found: Ending | None, session_id: str) -> errors.CarouselError:
    if found is None:
        return errors.SessionNotFound(f"there is no session {session_id}")
    kind, _ = _ENDINGS[found.reason]
    text = f"session {session_id} has ended: {found.reason}"
    return kind(text, ending=found.reason, ended_at=f"{found.at:.3f}")


def _check_name(field: str, name: str) -> None:
    if not checks.is_name(name):
        raise InvalidRequest(field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
