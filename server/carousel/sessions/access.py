"""A session in the store, for whoever reads or changes it: nobody notices that a stream holds it.

Whatever is asked of a session by its id comes through here: the stream that holds it gives it back first, changes have
their turn in order of arrival, and who comes too late is told how it ended.
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
    """Of one store."""

    def __init__(self, store: SessionStore, order: TurnOrder, residents: Residents) -> None:
        self._store = store
        self._order = order
        self._residents = residents

    def durable_position(self, row: Row) -> int:
        return self._store.durable_position(row)

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        """As it stands, or how it ended; None for an id that was never heard of."""
        await self._residents.leave((owner, session_id))
        return await self._store.read(owner, session_id)

    @contextlib.asynccontextmanager
    async def hold(self, owner: str, session_id: str, room: int = 0) -> AsyncIterator[Held]:
        """The session for one change, in order of arrival; it is given back in any case. `room` is the most bytes that
        the change adds."""
        if not checks.is_name(session_id):
            raise missing(None, session_id)  # malformed ids never reach a store
        async with self._order.hold((owner, session_id)):
            await self._residents.leave((owner, session_id))
            held = await self._store.take(owner, session_id, room)
            if not isinstance(held, Held):
                raise missing(held, session_id)
            try:
                yield held
            finally:
                await self._store.release(held)

    async def commit(self, held: Held, change: Change) -> Row:
        """Raises SessionMoved, StoreUnavailable, or the SessionEnded of a session that ended meanwhile. Goes on to the
        end also when the caller is cancelled: the session is not given back with a write in doubt."""
        try:
            work = self._store.commit(held, change)
            return await (work if self._store.is_immediate else finish(work))
        except errors.SessionMoved:
            found = await self._store.read(held.row.owner, held.row.id)
            if isinstance(found, Ending):
                raise missing(found, held.row.id) from None
            raise


def missing(found: Ending | None, session_id: str) -> errors.CarouselError:
    """What whoever asks for a session is told that is not there."""
    if found is None:
        return errors.SessionNotFound(f"there is no session {session_id}")
    text = f"session {session_id} has ended: {found.reason}"
    return _ERRORS[found.reason](text, ending=found.reason, ended_at=f"{found.at:.3f}")
