"""Which sessions a full store must evict: decided here, without touching a session."""

from collections.abc import Callable, Iterator
from functools import partial

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
        self._limits = capacity.owner_limits
        self._of_sessions = _Bound("max_sessions", self.sessions, capacity.max_sessions, is_owners=False)
        self._of_bytes = _Bound("max_session_bytes", self.bytes, capacity.max_bytes, is_owners=False)

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

        if not self._evicts:
            return None
        for owner in self._limits.own:
            if any(bound.used.used(owner) > bound.limit for bound in self._bounds_of(owner)) and accept(owner):
                return found[0]
        for bound in self._bounds_of(""):  # an owner without a name has the limits of all
            if bound.used.total > bound.limit:
                bound.used.largest(bound.limit if bound.is_owners else 0, partial(self._may_lose, accept, bound))
            if found:
                return found[0]
        return None

    def _may_lose(self, accept: Callable[[str], bool], bound: _Bound, owner: str) -> bool:
        """An owner with limits of its own is not held to those of the others."""
        return not (bound.is_owners and owner in self._limits.own) and accept(owner)

    def _bounds_of(self, owner: str) -> Iterator[_Bound]:
        """The owner's own bounds come first."""
        limits = self._limits.of(owner)
        for of_owner, of_all in ((limits.max_sessions, self._of_sessions), (limits.max_bytes, self._of_bytes)):
            if of_owner is not None:
                yield _Bound(f"{of_all.name}_per_owner", of_all.used, of_owner, is_owners=True)
            yield of_all

    def _find_short(self, owner: str, num_sessions: int, num_bytes: int) -> _Bound | None:
        for bound in self._bounds_of(owner):
            wanted = num_sessions if bound.used is self.sessions else num_bytes
            used = bound.used.used(owner) if bound.is_owners else bound.used.total
            if wanted > 0 and used + wanted > bound.limit:
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


def _first(walk: Iterator[Evictable]) -> list[Evictable]:
    return [one for one in [next(walk, None)] if one is not None]


def _refuse(bound: _Bound, owner: str) -> Overloaded:
    used = bound.used.used(owner) if bound.is_owners else bound.used.total
    what = "bytes of sessions" if bound.name.startswith("max_session_bytes") else "sessions"
    whose = " of this owner" if bound.is_owners else ""
    return Overloaded(f"{used} {what}{whose} are live already", limit=bound.name, retry_seconds=_RETRY_SECONDS)
