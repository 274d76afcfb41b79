"""Sequences that streams carry without a session, held in the engine's columns like sessions.

Each is a session without a past in a private memory store. It starts at the snapshot after an ordinary turn. When a
message is not plain, the ordinary path takes it back.
"""

import itertools
from collections.abc import Callable

from carousel.engine.engine import Engine
from carousel.sessions.carried_room import CarriedRoom
from carousel.sessions.endurance import finish
from carousel.sessions.ledger import Ledger, Retention
from carousel.sessions.order import Key, TurnOrder
from carousel.sessions.resident import Kit
from carousel.sessions.residents import Residents
from carousel.state.codec import SnapshotCodec
from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity, EndReason, Held, Lifetimes
from carousel.turns import Snapshot

_NO_PAST = Retention(max_turns=0, max_answers=0, max_answer_bytes=0, max_request_ids=1)
_FOR_EVER = Lifetimes(idle=1e9, absolute=1e9)  # carried sequences end with their streams, not by a clock
_ALL = Capacity(2**40, 2**60, evicts=False)  # CarriedRoom bounds them instead


class CarriedSequences:
    """The carried sequences, by key. A stream that keeps one must fetch or drop it."""

    def __init__(
        self,
        engine: Engine,
        make_kit: Callable[[], Kit],
        codec: SnapshotCodec,
        room: CarriedRoom,
    ) -> None:
        """`room` bounds all that streams carry, including what is not kept here."""
        self.room = room
        self._ledger = Ledger(_NO_PAST)
        self._codec = codec
        self._store = MemoryStore(_ALL, _FOR_EVER, clock=_stand_still)
        self._numbers = itertools.count()
        self.residents = Residents(
            engine,
            lambda: make_kit()._replace(ledger=self._ledger),
            self._store,
            TurnOrder(max_waiting=0),
            _stand_still,
        )

    def __repr__(self) -> str:
        return f"CarriedSequences({self._store!r})"

    async def make_room(self, owner: str) -> None:
        """Makes room for one more sequence of the owner. Raises Overloaded."""
        while (victim := self.room.find_victim(owner)) is not None:
            kept = victim.give_up()
            if kept is not None:
                await finish(self.drop(kept))

    async def keep(self, owner: str, snapshot: Snapshot) -> Key:
        birth = self._ledger.open(str(next(self._numbers)), owner, 0, self._codec.encode(snapshot))
        await self._store.create([birth])
        return owner, birth.id

    async def fetch(self, key: Key) -> Snapshot:
        """Removes the sequence and returns its snapshot."""
        return self._codec.decode(self._ledger.current(await self._remove(key)))

    async def drop(self, key: Key) -> None:
        await self._remove(key)

    async def _remove(self, key: Key) -> Held:
        await self.residents.leave(key)
        held = await self._store.acquire(*key)
        assert isinstance(held, Held)
        await self._store.release(held)
        await self._store.end(held.row, EndReason.UNDONE)
        return held


def _stand_still() -> float:
    """Returns the carried sequences' time, which never advances."""
    return 0.0
