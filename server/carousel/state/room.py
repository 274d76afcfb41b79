"""Which sessions a full store must evict: decided here, without touching a session."""

from collections.abc import Callable, Iterator

from carousel.errors import Overloaded
from carousel.records import record
from carousel.shares import Shares
from carousel.state.store import Capacity

_RETRY_SECONDS = 10.0


@record(frozen=True, slots=True)
class Evictable:
    """A session that no turn holds."""

    owner: str
    id: str
    weight: int  # bytes


@record(frozen=True, slots=True)
class _Bound:
    name: str
    used: Shares
    limit: int
    is_owners: bool  # of each owner, or of all together


class Room:
    """The space that every owner's sessions take, and who must free some: the owner furthest above its share loses its
    least recently used session; an owner at its share or its own limit loses one of its own. `walk` yields an owner's
    evictable sessions, least recently used first."""

    def __init__(self, capacity: Capacity, walk: Callable[[str], Iterator[Evictable]]) -> None:
        self._evicts = capacity.evicts
        self._walk = walk
        self.sessions, self.bytes = Shares(), Shares()
        limits = capacity.owner_limits
        self._of_sessions = _make_bounds("max_sessions", self.sessions, limits.max_sessions, capacity.max_sessions)
        self._of_bytes = _make_bounds("max_session_bytes", self.bytes, limits.max_bytes, capacity.max_bytes)

    def change(self, owner: str, num_sessions: int, num_bytes: int) -> None:
        self.sessions.change(owner, num_sessions)
        self.bytes.change(owner, num_bytes)

    def touch(self, owner: str) -> None:
        """The owner uses a session: among owners with equal use, another one is evicted from first."""
        self.sessions.touch(owner)
        self.bytes.touch(owner)

    def is_short(self, owner: str, num_sessions: int, num_bytes: int) -> bool:
        """Returns whether that much more of the owner's does not fit."""
        return self._find_short(owner, num_sessions, num_bytes) is not None

    def make(self, owner: str, num_sessions: int, num_bytes: int) -> list[Evictable]:
        """Returns the sessions that must go so that this much more fits. Raises Overloaded with the bound's name if
        that is impossible."""
        victims: list[Evictable] = []
        walks: dict[str, Iterator[Evictable]] = {}
        try:
            while (bound := self._find_short(owner, num_sessions, num_bytes)) is not None:
                wanted = num_sessions if bound.used is self.sessions else num_bytes
                found = self._choose(bound, owner, walks) if self._evicts and wanted <= bound.limit else None
                if found is None:
                    raise _refuse(bound, owner)
                victims.append(found)
                self.change(found.owner, -1, -found.weight)  # as if it were gone
        finally:
            for victim in victims:
                self.change(victim.owner, 1, victim.weight)
        return victims

    def find_excess(self) -> Evictable | None:
        """Returns a session to evict, where eviction is allowed, because existing sessions have grown beyond a
        bound."""
        found: list[Evictable] = []

        def accept(owner: str) -> bool:
            found.extend(_first(self._walk(owner)))
            return bool(found)

        for bound in (*self._of_sessions, *self._of_bytes) if self._evicts else ():
            if bound.used.total > bound.limit:
                bound.used.largest(bound.limit if bound.is_owners else 0, accept)
            if found:
                return found[0]
        return None

    def _find_short(self, owner: str, num_sessions: int, num_bytes: int) -> _Bound | None:
        for bounds, wanted in ((self._of_sessions, num_sessions), (self._of_bytes, num_bytes)):
            for bound in bounds if wanted > 0 else ():
                used = bound.used.used(owner) if bound.is_owners else bound.used.total
                if used + wanted > bound.limit:
                    return bound
        return None

    def _choose(self, bound: _Bound, owner: str, walks: dict[str, Iterator[Evictable]]) -> Evictable | None:
        found: list[Evictable] = []

        def accept(other: str) -> bool:
            found.extend(_first(walks.setdefault(other, self._walk(other))))
            return bool(found)

        share = bound.used.share(bound.limit, owner)
        if not bound.is_owners and bound.used.used(owner) < share:
            bound.used.largest(share, accept)
        return found[0] if found or accept(owner) else None


def _make_bounds(name: str, used: Shares, of_owner: int | None, of_all: int) -> tuple[_Bound, ...]:
    bounds = (_Bound(name, used, of_all, is_owners=False),)
    return bounds if of_owner is None else (_Bound(f"{name}_per_owner", used, of_owner, is_owners=True), *bounds)


def _first(walk: Iterator[Evictable]) -> list[Evictable]:
    return [one for one in [next(walk, None)] if one is not None]


def _refuse(bound: _Bound, owner: str) -> Overloaded:
    used = bound.used.used(owner) if bound.is_owners else bound.used.total
    what = "bytes of sessions" if bound.name.startswith("max_session_bytes") else "sessions"
    whose = " of this owner" if bound.is_owners else ""
    return Overloaded(f"{used} {what}{whose} are live already", limit=bound.name, retry_seconds=_RETRY_SECONDS)
