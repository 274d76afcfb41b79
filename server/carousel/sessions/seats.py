"""Taking a session for a turn: in order of arrival, checked for owner and life, saved at most once."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace

from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.engine import Engine
from carousel.errors import SessionExpired
from carousel.sessions.order import TurnOrder
from carousel.sessions.requests import Caller
from carousel.sessions.text import pending_bytes
from carousel.state.memory import Session, SessionTable
from carousel.turns import Snapshot


@dataclass(frozen=True, slots=True)
class Seat:
    """A turn's hold on its sequence. `save` puts the outcome in place, given the ids that the turn consumed."""

    start: Snapshot
    is_kept: bool
    save: Callable[[Snapshot, Iterable[int]], None]


class Seats:
    """Gives turns their sequences: a session's, or a fresh one when the caller names none."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, table: SessionTable, order: TurnOrder) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._table = table
        self._order = order

    @contextlib.asynccontextmanager
    async def take(self, caller: Caller) -> AsyncIterator[Seat]:
        """Refused (Overloaded, ShuttingDown) before the session is looked at; then SessionNotFound, SessionExpired."""
        self._engine.check_open()
        if not caller.session_id:
            yield Seat(self._engine.start_snapshot, False, lambda snapshot, ids: None)
            return
        self._table.get(caller.session_id, caller.owner)  # a stranger must not wait in the owner's line
        async with self._order.hold(caller.session_id):
            session = self._table.get(caller.session_id, caller.owner)
            yield Seat(session.snapshot, True, lambda snapshot, ids: self._save(session, snapshot, ids))

    def _save(self, session: Session, snapshot: Snapshot, ids: Iterable[int]) -> None:
        tail = pending_bytes(self._tokenizer, session.snapshot.tail, ids)
        if self._table.save(session, replace(snapshot, tail=tail)) is None:
            raise SessionExpired(f"session {session.id} ended while the turn ran")
