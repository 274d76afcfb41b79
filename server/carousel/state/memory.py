"""Sessions between turns, in this process's memory: who owns them, where they stand, when they end.

The table never waits and never runs a turn; `sessions` takes care of one turn at a time. The clock is handed in.
"""

import collections
import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from carousel.errors import InvalidRequest, Overloaded, SessionExists, SessionExpired, SessionNotFound
from carousel.metrics import Metrics
from carousel.turns import Snapshot

_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When sessions end, in seconds, and how many may live at once."""

    idle_seconds: float
    absolute_seconds: float
    max_sessions: int


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation at rest."""

    id: str
    owner: str
    model_digest: str
    snapshot: Snapshot
    created_at: float  # seconds since the epoch, as the two below
    updated_at: float
    expires_at: float
    number: int  # order of creation
    revision: int = 0  # turns saved


class SessionTable:
    """All live sessions. Another owner's session is answered as one that does not exist."""

    def __init__(self, lifetime: Lifetime, clock: Callable[[], float], metrics: Metrics) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._metrics = metrics
        self._sessions: collections.OrderedDict[str, Session] = collections.OrderedDict()  # least recently used first
        self._by_age: collections.OrderedDict[str, float] = collections.OrderedDict()  # oldest first -> created_at
        self._by_owner: dict[str, dict[str, int]] = {}  # id -> number, oldest first
        self._expired: collections.OrderedDict[str, str] = collections.OrderedDict()  # id -> owner
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._sessions)

    def __repr__(self) -> str:
        return f"SessionTable({len(self)} of {self._lifetime.max_sessions} sessions)"

    def create(self, owner: str, model_digest: str, start: Snapshot, session_id: str = "") -> Session:
        """Raises InvalidRequest for a malformed id, SessionExists, Overloaded at the limit of live sessions."""
        if session_id and not _ID.fullmatch(session_id):
            raise InvalidRequest("session_id", "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
        self.expire()
        if session_id in self._sessions:
            raise SessionExists(f"session {session_id} exists already")
        if len(self) >= self._lifetime.max_sessions:
            raise Overloaded(f"{len(self)} sessions are live already", limit="max_sessions", retry_seconds=10.0)
        now = self._clock()
        session = Session(
            id=session_id or secrets.token_urlsafe(18),
            owner=owner,
            model_digest=model_digest,
            snapshot=start,
            created_at=now,
            updated_at=now,
            expires_at=self._expiry(now, now),
            number=next(self._numbers),
        )
        self._sessions[session.id] = session
        self._by_age[session.id] = now
        self._by_owner.setdefault(owner, {})[session.id] = session.number
        self._expired.pop(session.id, None)
        self._metrics.session_created(len(self))
        return session

    def get(self, session_id: str, owner: str) -> Session:
        """Raises SessionNotFound (unknown or another owner's) or SessionExpired."""
        session = self._sessions.get(session_id)
        if session is not None and session.owner == owner:
            if session.expires_at > self._clock():
                return session
            self.expire()
        if self._expired.get(session_id) == owner:
            raise SessionExpired(f"session {session_id} has expired")
        raise SessionNotFound(f"there is no session {session_id}")

    def save(self, session: Session, snapshot: Snapshot) -> Session | None:
        """Put the session's new snapshot in place. None, and no effect, if it was deleted or expired meanwhile."""
        self.expire()
        current = self._sessions.get(session.id)
        if current is None or current.number != session.number:
            return None
        now = self._clock()
        saved = replace(
            session,
            snapshot=snapshot,
            updated_at=now,
            expires_at=self._expiry(session.created_at, now),
            revision=session.revision + 1,
        )
        self._sessions[session.id] = saved
        self._sessions.move_to_end(session.id)
        return saved

    def delete(self, session_id: str, owner: str) -> None:
        self._remove(self.get(session_id, owner), "deleted")

    def list(self, owner: str, after_number: int, count: int) -> list[Session]:
        """The owner's sessions created after that one, oldest first."""
        self.expire()
        numbers = self._by_owner.get(owner, {})
        later = (session_id for session_id, number in numbers.items() if number > after_number)
        return [self._sessions[session_id] for session_id in itertools.islice(later, count)]

    def expire(self) -> int:
        """End the sessions whose time has come; how many. Costs nothing for those that live on."""
        ended = list(self._due())
        for session in ended:
            self._remove(session, "expired")
            self._expired[session.id] = session.owner
        while len(self._expired) > _MAX_REMEMBERED:
            self._expired.popitem(last=False)
        return len(ended)

    def _due(self) -> Iterator[Session]:
        """Idle ones stand first in the order of use, old ones first in the order of age."""
        now = self._clock()
        is_due = lambda session: session.expires_at <= now  # noqa: E731
        idle = {session.id: session for session in itertools.takewhile(is_due, self._sessions.values())}
        aged = itertools.takewhile(is_due, (self._sessions[session_id] for session_id in self._by_age))
        yield from (idle | {session.id: session for session in aged}).values()

    def _expiry(self, created_at: float, now: float) -> float:
        return min(created_at + self._lifetime.absolute_seconds, now + self._lifetime.idle_seconds)

    def _remove(self, session: Session, reason: str) -> None:
        del self._sessions[session.id], self._by_age[session.id]
        owned = self._by_owner[session.owner]
        del owned[session.id]
        if not owned:
            del self._by_owner[session.owner]
        self._metrics.session_ended(reason, len(self))
