"""Where sessions are between turns: the seam behind which memory, SQLite and Redis stand.

A store keeps a `Row` and named parts (bytes) of each session and knows nothing of what the parts mean; `sessions` does.
It has the clock: it writes every moment of a row, and decides alone whose time has come.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from carousel.errors import CarouselError
from carousel.records import record
from carousel.shares import OwnerLimits

Parts = Mapping[str, bytes]

DEED_SECONDS = 600.0  # how long a request that made or ended sessions is remembered
MAX_DEEDS_PER_OWNER = 10_000
MAX_DEEDS = 100_000  # of all owners; beyond it the oldest of who has most are forgotten
MAX_ENDINGS_PER_OWNER = 1_000
MAX_ENDINGS = 100_000  # likewise


class EndReason(enum.StrEnum):
    DELETED = "deleted"
    IDLE = "idle"  # unused for too long
    AGE = "age"  # its absolute lifetime has passed
    EVICTED = "evicted"  # the store was full and it was the least recently used of an owner above his share
    UNDONE = "undone"  # made by a request that failed or was cancelled; it leaves no Ending


class Durability(enum.StrEnum):
    """What a crash of the server takes."""

    NONE = "none"  # everything
    INTERVAL = "interval"  # what was committed since the last flush
    EACH_TURN = "each_turn"  # nothing that was committed


@record(frozen=True, slots=True)
class Lifetimes:
    """How long sessions live, in seconds."""

    idle: float  # after the last change
    absolute: float  # after the creation, used or not


@record(frozen=True, slots=True)
class Capacity:
    """How much may live at once. Where `evicts`, the least recently used session of the owner furthest above his share,
    the one who has most, makes room for a new one, never one in use; otherwise what does not fit is refused."""

    max_sessions: int
    max_bytes: int
    evicts: bool
    owner_limits: OwnerLimits = OwnerLimits()


@record(frozen=True, slots=True)
class Row:
    """A session without its parts. Times are seconds since the epoch, by the store's clock."""

    id: str  # unique for its owner alone
    owner: str
    incarnation: int  # random: a session made anew under an old id is another one
    revision: int  # changes committed
    position: int
    created_at: float
    updated_at: float
    expires_at: float


@record(frozen=True, slots=True)
class Birth:
    """A session that is to be made."""

    id: str
    owner: str
    incarnation: int
    position: int
    parts: Parts


@record(frozen=True, slots=True)
class Held:
    """A session as it was when a turn took it. `epoch` fences: a store shared by servers raises it at every take."""

    row: Row
    parts: Parts
    epoch: int = 0


@record(frozen=True, slots=True)
class Change:
    """What a turn does to a session, in one atomic write. The store raises the revision by one and sets the moments."""

    position: int
    put: Parts
    drop: tuple[str, ...] = ()
    age_seconds: float = 0.0  # how long ago it happened; a store that writes before it acknowledges need not look at it


@record(frozen=True, slots=True)
class Ending:
    """A session that is gone; remembered for a while."""

    id: str
    owner: str
    reason: EndReason
    at: float
    incarnation: int = 0


@record(frozen=True, slots=True)
class Deed:
    """An owner's request that made or ended sessions, so that a repeat does nothing. It is recorded with what it did,
    or, where that lies on several machines, before it and with all that is needed to finish it."""

    owner: str
    request_id: str
    fingerprint: str  # of the request's contents
    targets: tuple[tuple[str, int], ...]  # (session id, incarnation) of each


class Repeated(Exception):
    """The owner's request id is recorded already; nothing has been changed now."""

    def __init__(self, deed: Deed) -> None:
        super().__init__(f"request {deed.request_id} is recorded already")
        self.deed = deed


class SessionStore(Protocol):
    """Contract of every store.

    A session's key is its owner and its id. Rows and parts that are handed out are never changed afterwards. A change
    is applied wholly or not at all, and only to the incarnation, revision and epoch that were held. When `commit`
    returns, the change survives what `durability` says; when it raises, it was not applied. All methods may raise
    StoreUnavailable, after which nothing has changed; only a store that is reached over a network may have to add the
    detail `in_doubt`: whether it was applied will be seen at the next `take` or `recall`.

    A session is due when its `expires_at` has come by the store's clock and nobody holds it. A due session is never
    handed out: whoever meets it ends it. The clock ends no session that a turn holds.
    """

    durability: Durability
    is_immediate: bool  # its methods never wait, so nobody can be cancelled in the middle of one
    is_shared: bool  # with other servers, who may want the sessions that this one holds

    async def start(self, told: Callable[[Ending], None]) -> None:
        """Open. `told` is called in the event loop once for each session that this server ends, whatever ended it.
        Raises StoreInvalid for a file or server that is not ours to use."""
        ...

    async def close(self) -> None:
        """Flush and close."""
        ...

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        """New sessions of one owner, with the deed. All or none; a store on several machines undoes what it has made
        when it fails, or leaves it to the repeat of what is recorded. Raises SessionExists, Overloaded when there is no
        room, or Repeated: also when what the deed made has ended since and its ids were used again."""
        ...

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        """What the owner's request did, if it was done wholly, within the last DEED_SECONDS."""
        ...

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        """The row, how it ended, or None if nothing is known of it."""
        ...

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        """The session for a turn, to be followed by `commit` and then, in any case, `release`. `room` is the most bytes
        by which the change will enlarge it, set aside until then: raises Overloaded when there is no room and none may
        be made. Where several servers share the store, waits for another's turn on the session, in fair order. A
        cancelled take has cleaned up after itself."""
        ...

    async def commit(self, held: Held, change: Change) -> Row:
        """Apply; the session as it stands then, also when its lifetime passed meanwhile. Raises SessionMoved if the
        session is no longer what was held."""
        ...

    async def release(self, held: Held) -> None:
        """Give back, after a commit or without one. Never raises."""
        ...

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        """Remove this incarnation, held or not, parts and all, and record the deed; whether it was there. Raises
        Repeated."""
        ...

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        """The owner's sessions after (created_at, id), in that order."""
        ...

    async def sweep(self, count: int) -> int:
        """End sessions that are due and, where they may be evicted, those beyond the capacity: about `count` at most,
        in a bounded time. How many were ended; 0 when there are no more."""
        ...

    async def num_live(self) -> int: ...

    async def num_bytes(self) -> int | None:
        """What `Capacity.max_bytes` bounds; None where the store does not know."""
        ...

    def durable_position(self, row: Row) -> int:
        """Where a crash of the server now would leave the session that stands at `row`; 0 if it would be gone. Never
        beyond what is durable of the line that leads to `row`."""
        ...


@runtime_checkable
class ImmediateStore(SessionStore, Protocol):
    """One whose methods never wait: it can hold a session without a take."""

    def pin(self, owner: str, session_id: str) -> bool:
        """Whether the session is there; then it is in use from now on, as if it were taken, until it is unpinned."""
        ...

    def unpin(self, owner: str, session_id: str) -> None:
        """The opposite, also when the session has ended meanwhile."""
        ...


@runtime_checkable
class GroupStore(SessionStore, Protocol):
    """One that writes before it acknowledges, several sessions together at little more than the cost of one."""

    async def commit_all(self, changes: Sequence[tuple[Held, Change]]) -> list[Row | CarouselError]:
        """As `commit` of each, of different sessions: the rows, or what `commit` would raise, in their order."""
        ...


@runtime_checkable
class LaterStore(SessionStore, Protocol):
    """One that acknowledges first and writes later, all that it knows at once: it may be told as late as just before
    that, of sessions that are held."""

    def settle_with(self, settle: Callable[[], Awaitable[None]]) -> None:
        """`settle` is called before each write: then everything that was acknowledged is to be noted."""
        ...

    def check_open(self) -> None:
        """Raises StoreUnavailable as `commit` would, since a write has failed: nothing may be acknowledged."""
        ...

    def note(self, held: Held, change: Change) -> Row:
        """As `commit`, without waiting and whether or not the last write failed, for whoever has had the session for
        himself since he took it. Raises SessionMoved."""
        ...

    async def reclaim(self, owner: str, session_id: str) -> Held | Ending | None:
        """As `take`, also of a session that is due: what is noted then says when it was used last. For `replay` alone,
        while nobody else uses the store."""
        ...

    async def recover(self, replay: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        """After the start: if a crash has left a log of turns, `replay` notes what its entries say."""
        ...


@runtime_checkable
class LogStore(LaterStore, Protocol):
    """One that has a log as well: what a crash must not take before it is noted is appended first."""

    async def append(self, entry: bytes, then: Callable[[], None]) -> None:
        """`then` is called in the loop once the entry is durable, in the order of the calls, also when the caller is
        cancelled; its turns are to be noted at the next write after that. Raises StoreUnavailable."""
        ...
