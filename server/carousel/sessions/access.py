"""Access to a session in the store, to read or change it. No caller notices that a stream holds the session.

Every operation on a session by its id goes through here. The stream that holds the session gives it back first. Changes
run in order of arrival. A caller that comes after the session's end learns how it ended.
"""

import contextlib
from collections.abc import AsyncIterator

from carousel import errors
from carousel.sessions import checks
from carousel.sessions.endurance import finish
from carousel.sessions.order import TurnOrder
from carousel.sessions.residents import Residents
from carousel.state.store import Change, Ending, EndReason, Held, Row, SessionStore

_ERRORS = {
    EndReason.DELETED: errors.SessionDeleted,
    EndReason.IDLE: errors.SessionExpired,
    EndReason.AGE: errors.SessionExpired,
    EndReason.EVICTED: errors.SessionEvicted,
}


class SessionAccess:
    """The access to one store's sessions."""

    def __init__(self, store: SessionStore, order: TurnOrder, residents: Residents) -> None:
        self._store = store
        self._order = order
        self._residents = residents

    def durable_position(self, row: Row) -> int:
        return self._store.durable_position(row)

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        """Returns the session's current row, or its ending. Returns None for an unknown id."""
        await self._residents.leave((owner, session_id))
        return await self._store.read(owner, session_id)

    @contextlib.asynccontextmanager
    async def hold(self, owner: str, session_id: str, room: int = 0) -> AsyncIterator[Held]:
        """Holds the session for one change, in order of arrival, and always gives it back. The change adds at most
        `room` bytes."""
        if not checks.is_name(session_id):
            raise missing(None, session_id)  # malformed ids never reach a store
        async with self._order.hold((owner, session_id)):
            await self._residents.leave((owner, session_id))
            held = await self._store.acquire(owner, session_id, room)
            if not isinstance(held, Held):
                raise missing(held, session_id)
            try:
                yield held
            finally:
                await self._store.release(held)

    @contextlib.asynccontextmanager
    async def hold_or_vacant(self, owner: str, session_id: str, room: int = 0) -> AsyncIterator[Held | None]:
        """As `hold`. Where no session of that id is known, holds the id: no other caller here has it meanwhile."""
        async with self._order.hold((owner, session_id)):
            await self._residents.leave((owner, session_id))
            held = await self._store.acquire(owner, session_id, room)
            if held is None:
                yield None
                return
            if isinstance(held, Ending):
                raise missing(held, session_id)
            try:
                yield held
            finally:
                await self._store.release(held)

    async def end(self, row: Row) -> bool:
        """Ends the session as its owner's wish, held or not. Returns whether it was there."""
        return await finish(self._store.end(row, EndReason.DELETED))

    async def commit(self, held: Held, change: Change) -> Row:
        """Commits the change. Raises SessionMoved, StoreUnavailable, or SessionEnded if the session ended meanwhile.
        Completes even if the caller is cancelled: a session is never given back with a write in doubt."""
        try:
            work = self._store.commit(held, change)
            return await (work if self._store.is_immediate else finish(work))
        except errors.SessionMoved:
            found = await self._store.read(held.row.owner, held.row.id)
            if isinstance(found, Ending):
                raise missing(found, held.row.id) from None
            raise


def missing(found: Ending | None, session_id: str) -> errors.CarouselError:
    """Returns the error for a session that does not exist or has ended."""
    if found is None:
        return errors.SessionNotFound(f"there is no session {session_id}")
    text = f"session {session_id} has ended: {found.reason}"
    return _ERRORS[found.reason](text, ending=found.reason, ended_at=f"{found.at:.3f}")
