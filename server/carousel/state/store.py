"""Where sessions are between turns: the seam behind which memory, SQLite and Redis stand.

A store keeps a `Row` and named parts (bytes) of each session and knows nothing of what the parts mean; `sessions` does.
"""

import enum
from collections.abc import Mapping
from typing import Protocol

from carousel.records import record

Parts = Mapping[str, bytes]


class EndReason(enum.StrEnum):
    DELETED = "deleted"
    IDLE = "idle"  # unused for too long
    AGE = "age"  # its absolute lifetime has passed
    EVICTED = "evicted"  # the store was full and it was the least recently used


class Durability(enum.StrEnum):
    """What a crash of the server takes."""

    NONE = "none"  # everything
    INTERVAL = "interval"  # what was committed since the last flush
    EACH_TURN = "each_turn"  # nothing that was committed


@record(frozen=True, slots=True)
class Row:
    """A session without its parts. Times are seconds since the epoch."""

    id: str
    owner: str
    incarnation: int  # random: a session made anew under an old id is another one
    revision: int  # changes committed
    position: int
    created_at: float
    updated_at: float
    expires_at: float


@record(frozen=True, slots=True)
class Held:
    """A session as it was when a turn took it. `epoch` fences: a store shared by servers raises it at every take."""

    row: Row
    parts: Parts
    epoch: int = 0


@record(frozen=True, slots=True)
class Change:
    """What a turn does to a session, in one atomic write."""

    row: Row
    put: Parts
    drop: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Ending:
    """A session that is gone; remembered for a while."""

    id: str
    owner: str
    reason: EndReason
    at: float


class SessionStore(Protocol):
    """Contract of every store.

    Rows and parts that are handed out are never changed afterwards. A change is applied wholly or not at all, and only
    to the incarnation, revision and epoch that were held. When `commit` returns, the change survives what `durability`
    says; when it raises, it was not applied. All methods may raise StoreUnavailable, after which nothing has changed;
    only a store that is reached over a network may have to add the detail `in_doubt`: whether it was applied will be
    seen at the next `take`.
    """

    durability: Durability
    is_immediate: bool  # its methods never wait, so nobody can be cancelled in the middle of one

    async def start(self) -> None:
        """Open. Raises StoreInvalid for a file or server that is not ours to use."""
        ...

    async def close(self) -> None:
        """Flush and close."""
        ...

    async def create(self, row: Row, parts: Parts) -> list[Ending]:
        """A new session; the sessions that were evicted for it. Raises SessionExists, or Overloaded when the store is
        full and may not evict."""
        ...

    async def read(self, session_id: str) -> Row | Ending | None:
        """The row, how it ended, or None if nothing is known of it."""
        ...

    async def take(self, session_id: str) -> Held | Ending | None:
        """The session for a turn, to be followed by `commit` and then, in any case, `release`. Where several servers
        share the store, waits for another's turn on the session. A cancelled take has cleaned up after itself."""
        ...

    async def commit(self, held: Held, change: Change) -> None:
        """Apply and release. Raises SessionMoved if the session is no longer what was held."""
        ...

    async def release(self, held: Held) -> None:
        """Give back without a change. Never raises."""
        ...

    async def end(self, row: Row, reason: EndReason, now: float) -> bool:
        """Remove this incarnation, parts and all; whether it was there."""
        ...

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        """The owner's sessions after (created_at, id), in that order."""
        ...

    async def due(self, now: float) -> list[Row]:
        """Some sessions whose `expires_at` has come, to be ended; empty when there are none."""
        ...

    async def excess(self) -> list[Row]:
        """The least recently used sessions beyond the capacity, to be evicted; empty when all fit or none may go."""
        ...

    async def num_live(self) -> int: ...

    def durable_position(self, row: Row) -> int:
        """Where a crash of the server now would leave the session that stands at `row`; 0 if it would be gone."""
        ...
