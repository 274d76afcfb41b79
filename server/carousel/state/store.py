"""Where sessions are between turns: the interface of the memory, SQLite and Redis stores.

A store keeps a `Row` and named parts (bytes) of each session and does not know what the parts mean; `sessions` does.
The store has the clock: it writes every time in a row, and it alone decides when a session is due.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from carousel.errors import CarouselError
from carousel.records import record
from carousel.shares import LimitsByOwner, OwnerLimits

Parts = Mapping[str, bytes]

DEED_SECONDS = 600.0  # how long a request that created or ended sessions is remembered
MAX_DEEDS_PER_OWNER = 10_000
MAX_DEEDS = 100_000  # of all owners; beyond it the oldest of the owner with the most are forgotten
MAX_ENDINGS_PER_OWNER = 1_000
MAX_ENDINGS = 100_000  # likewise


class EndReason(enum.StrEnum):
    DELETED = "deleted"
    IDLE = "idle"  # unused for too long
    AGE = "age"  # its absolute lifetime has passed
    EVICTED = "evicted"  # the store was full and it was the least recently used of an owner above its share
    UNDONE = "undone"  # created by a request that failed or was cancelled; it leaves no Ending


class Durability(enum.StrEnum):
    """What a crash of the server loses."""

    NONE = "none"  # everything
    INTERVAL = "interval"  # what was committed since the last flush
    EACH_TURN = "each_turn"  # nothing that was committed


@record(frozen=True, slots=True)
class Lifetimes:
    """How long sessions live, in seconds."""

    idle: float  # after the last change
    absolute: float  # after creation, used or not


@record(frozen=True, slots=True)
class Capacity:
    """How much may live at once. Where `evicts`, the owner furthest above its share, the one with the most, loses its
    least recently used session to make room, never one in use; otherwise what does not fit is refused."""

    max_sessions: int
    max_bytes: int
    evicts: bool
    owner_limits: LimitsByOwner = OwnerLimits()


@record(frozen=True, slots=True)
class Row:
    """A session without its parts. Times are seconds since the epoch, by the store's clock."""

    id: str  # unique only within its owner
    owner: str
    incarnation: int  # random: a new session under an old id has another one
    revision: int  # number of committed changes
    position: int
    created_at: float
    updated_at: float
    expires_at: float


@record(frozen=True, slots=True)
class Birth:
    """A session to create."""

    id: str
    owner: str
    incarnation: int
    position: int
    parts: Parts


@record(frozen=True, slots=True)
class Held:
    """A session as a turn took it. `epoch` is the fence: a shared store raises it at every take."""

    row: Row
    parts: Parts
    epoch: int = 0


@record(frozen=True, slots=True)
class Change:
    """What a turn does to a session, in one atomic write. The store raises the revision by one and sets the times."""

    position: int
    put: Parts
    drop: tuple[str, ...] = ()
    age_seconds: float = 0.0  # how long ago it happened; stores that write before they acknowledge may ignore it


@record(frozen=True, slots=True)
class Ending:
    """A session that has ended; remembered for a while."""

    id: str
    owner: str
    reason: EndReason
    at: float
    incarnation: int = 0


@record(frozen=True, slots=True)
class Deed:
    """An owner's request that created or ended sessions, recorded so that a retry does nothing. It is recorded together
    with its effects. Where those lie on several machines, it is recorded first, with all that is needed to finish
    it."""

    owner: str
    request_id: str
    fingerprint: str  # of the request's contents
    targets: tuple[tuple[str, int], ...]  # (session id, incarnation) of each


class Repeated(Exception):
    """The owner's request id is recorded already; nothing was changed now."""

    def __init__(self, deed: Deed) -> None:
        super().__init__(f"request {deed.request_id} is recorded already")
        self.deed = deed


class SessionStore(Protocol):
    """The contract of every store.

    A session's key is its owner and its id. Returned rows and parts never change afterwards. A change is atomic, and
    applies only to the incarnation, revision and epoch that were held. When `commit` returns, the change survives what
    `durability` says; when it raises, it was not applied. All methods may raise StoreUnavailable, after which nothing
    has changed. Only a store behind a network may have to add the detail `in_doubt`: the next `take` or `recall` shows
    whether it was applied.

    A session is due when its `expires_at` has come by the store's clock and no turn holds it. A due session is never
    returned: the call that finds it ends it. The clock never ends a session that a turn holds.
    """

    durability: Durability
    is_immediate: bool  # its methods never wait, so no caller can be cancelled inside one
    is_shared: bool  # with other servers, which may want the sessions that this one holds

    async def start(self, on_ending: Callable[[Ending], None]) -> None:
        """Opens the store. The event loop calls `on_ending` for each session that this server ends, for any reason.
        Raises StoreInvalid for a file or server that is not ours to use."""
        ...

    async def close(self) -> None:
        """Flushes and closes."""
        ...

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        """Creates sessions of one owner and records the deed, all or none. A store on several machines undoes a failed
        creation, or leaves it to the retry of a recorded deed. Raises SessionExists, Overloaded when there is no room,
        or Repeated: also when the deed's sessions have ended since and their ids are in use again."""
        ...

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        """Returns the deed of the owner's request, if it was completed within the last DEED_SECONDS."""
        ...

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        """Returns the row, how the session ended, or None if it is unknown."""
        ...

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        """Acquires the session for a turn; `commit` may follow, and `release` must. `room` is the most bytes that the
        change will add; they are reserved until then. Raises Overloaded when there is no room and none may be made.
        Where several servers share the store, it waits for another server's turn on the session, in fair order. A
        cancelled call cleans up after itself."""
        ...

    async def commit(self, held: Held, change: Change) -> Row:
        """Applies the change. Returns the session's new row, also when its lifetime passed meanwhile. Raises
        SessionMoved if the session is no longer what was held."""
        ...

    async def release(self, held: Held) -> None:
        """Ends the hold, with or without a commit. Never raises."""
        ...

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        """Removes this incarnation, held or not, with its parts, and records the deed. Returns whether it existed.
        Raises Repeated."""
        ...

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        """Returns the owner's sessions after (created_at, id), in that order."""
        ...

    async def sweep(self, count: int) -> int:
        """Ends about `count` due sessions and, where eviction is allowed, sessions beyond the capacity, in a bounded
        time. Returns how many were ended; 0 when there are no more."""
        ...

    async def num_live(self) -> int: ...

    async def num_bytes(self) -> int | None:
        """The bytes that `Capacity.max_bytes` bounds; None where the store does not know."""
        ...

    def durable_position(self, row: Row) -> int:
        """Returns the position that the session at `row` would have after a crash of the server now; 0 if the session
        would be lost. Never beyond the durable part of the history of `row`."""
        ...


@runtime_checkable
class ImmediateStore(SessionStore, Protocol):
    """A store whose methods never wait: it can hold a session without a take."""

    def pin(self, owner: str, session_id: str) -> bool:
        """Returns whether the session exists; if so, it is in use, as if taken, until it is unpinned."""
        ...

    def unpin(self, owner: str, session_id: str) -> None:
        """Undoes `pin`, also when the session has ended meanwhile."""
        ...


@runtime_checkable
class GroupStore(SessionStore, Protocol):
    """A store that writes before it acknowledges, and writes several sessions for little more than the cost of one."""

    async def commit_all(self, changes: Sequence[tuple[Held, Change]]) -> list[Row | CarouselError]:
        """Commits changes of different sessions. Returns their rows, or the errors that `commit` would raise, in
        order."""
        ...


@runtime_checkable
class LaterStore(SessionStore, Protocol):
    """A store that acknowledges first and writes later, all it has at once: it need not learn of a held session's turns
    until just before that write."""

    def settle_with(self, settle: Callable[[], Awaitable[None]]) -> None:
        """`settle` is called before each write; it must note everything that was acknowledged."""
        ...

    def check_open(self) -> None:
        """Raises StoreUnavailable as `commit` would, after a failed write: nothing may be acknowledged then."""
        ...

    def note(self, held: Held, change: Change) -> Row:
        """Works as `commit`, without waiting and even after a failed write, for a caller that has had sole use of the
        session since its take. Raises SessionMoved."""
        ...

    async def reclaim(self, owner: str, session_id: str) -> Held | Ending | None:
        """Works as `take`, also for a due session: the noted turns then say when it was last used. Only for `replay`,
        while nothing else uses the store."""
        ...

    async def recover(self, replay: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        """Called after the start: if a crash has left a log of turns, `replay` notes the turns in its entries."""
        ...


@runtime_checkable
class LogStore(LaterStore, Protocol):
    """A store that also has a log: turns that a crash must not lose before they are noted are appended first."""

    async def append(self, entry: bytes, then: Callable[[], None]) -> None:
        """Appends an entry. The loop calls `then` once the entry is durable, in the order of the calls, also when the
        caller is cancelled; its turns must be noted at the next write after that. Raises StoreUnavailable."""
        ...
