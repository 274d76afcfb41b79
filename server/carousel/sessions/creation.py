"""Creates sessions in the store, all of a request or none. What a cancelled caller cannot know of does not stay."""

import contextlib
from collections.abc import Sequence

from carousel import errors
from carousel.errors import StoreUnavailable
from carousel.metrics import Metrics
from carousel.sessions.endurance import finish
from carousel.sessions.events import EventHub, EventKind, SessionEvent
from carousel.sessions.residents import Residents
from carousel.state.store import Birth, Deed, EndReason, Row, SessionStore

MAX_SWEPT = 256  # sessions that end without a pause


class Creation:
    """The one way in which sessions of a store begin."""

    def __init__(self, store: SessionStore, residents: Residents, hub: EventHub, metrics: Metrics) -> None:
        self._store = store
        self._residents = residents
        self._hub = hub
        self._metrics = metrics

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        """Creates the sessions, and tells of them. When there is no room, ends due sessions first and, if the store
        counts held sessions as in use, takes sessions back from streams. If the caller of a request without a deed is
        cancelled, no session stays. Raises SessionExists, Overloaded, or Repeated."""
        try:
            rows = await self._create(births, deed)
        except errors.Overloaded as refusal:
            if not await self._make_room(births, refusal):
                raise
            rows = await self._create(births, deed)
        for row in rows:
            self._metrics.session_created()
            self._hub.publish(SessionEvent(EventKind.CREATED, row.id, row.owner, row.created_at))
        return rows

    async def _make_room(self, births: Sequence[Birth], refusal: errors.Overloaded) -> bool:
        has_left = False
        if not self._store.is_immediate:
            owner = births[0].owner if births and refusal.limit.endswith("_per_owner") else None
            has_left = await self._residents.leave_all(owner)
        return bool(await self._store.sweep(MAX_SWEPT)) or has_left

    async def _create(self, births: Sequence[Birth], deed: Deed | None) -> list[Row]:
        work = self._store.create(births, deed)
        if self._store.is_immediate:
            return await work
        return await finish(work, undo=None if deed is not None else self._undo)

    async def _undo(self, rows: list[Row]) -> None:
        for row in rows:
            with contextlib.suppress(StoreUnavailable):
                await self._store.end(row, EndReason.UNDONE)
