"""Which calls may be open at once, and whose idle one is closed when they run short. Decides; closes nothing itself."""

from collections.abc import Callable
from dataclasses import dataclass

from carousel.errors import Overloaded
from carousel.settings import Settings
from carousel.shares import Shares

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """How many calls may be open."""

    max_streams: int
    reserved_streams: int = 0  # beyond it, for owners below their share
    max_per_owner: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> "StreamBounds":
        return cls(settings.max_streams, settings.reserved_streams, settings.owner_limits.max_calls)


@dataclass(eq=False, slots=True)
class Place:
    """Of one open call. `close` ends the call; it need not have ended when `close` returns."""

    owner: str
    close: Callable[[], None]
    is_taken: bool = True


class Streams:
    """An owner alone may have all places, and nothing of his is closed for himself. When all are taken, somebody who
    has less than his share gets the place that has been idle for longest of the owner furthest above his, or one of
    the reserve."""

    def __init__(self, bounds: StreamBounds, look: Callable[[], None] = lambda: None) -> None:
        """`look` is called before an idle one is sought, so that it can still be said who is."""
        self._bounds = bounds
        self._look = look
        self._shares = Shares()
        self._idle: dict[str, dict[Place, None]] = {}  # by owner, those idle for longest first

    def __repr__(self) -> str:
        return f"Streams({self._shares.total} of {self._bounds.max_streams} taken)"

    def enter(self, owner: str, close: Callable[[], None]) -> Place:
        """A place, to be left again. Raises Overloaded; may close somebody's idle call."""
        bounds = self._bounds
        if bounds.max_per_owner is not None and self._shares.used(owner) >= bounds.max_per_owner:
            raise _full(f"{bounds.max_per_owner} calls of yours are open", "max_streams_per_owner")
        if self._shares.total >= bounds.max_streams:
            self._make_room(owner)
        self._shares.change(owner, 1)
        return Place(owner, close)

    def leave(self, place: Place) -> None:
        """Again is fine."""
        if place.is_taken:
            place.is_taken = False
            self._shares.change(place.owner, -1)
            self.wake(place)

    def rest(self, place: Place) -> None:
        """The call waits for its client."""
        if place.is_taken:
            self._idle.setdefault(place.owner, {})[place] = None

    def wake(self, place: Place) -> None:
        """The call works."""
        resting = self._idle.get(place.owner)
        if resting is not None and resting.pop(place, place) is None and not resting:
            del self._idle[place.owner]

    def _make_room(self, owner: str) -> None:
        bounds, share = self._bounds, self._shares.share(self._bounds.max_streams, owner)
        if self._shares.used(owner) < share:
            self._look()
            victim = self._idle_above(share)
            if victim is not None:
                self.leave(victim)
                victim.close()
                return
            if self._shares.total < bounds.max_streams + bounds.reserved_streams:
                return
        raise _full(f"{self._shares.total} calls are open", "max_streams")

    def _idle_above(self, share: float) -> Place | None:
        largest = self._shares.largest()
        if largest not in self._idle:  # the rare case is the dear one
            largest = max(self._idle, key=self._shares.used, default=None)
        if largest is None or self._shares.used(largest) <= share:
            return None
        return next(iter(self._idle[largest]))


def _full(text: str, limit: str) -> Overloaded:
    return Overloaded(text, limit=limit, retry_seconds=_RETRY_SECONDS)
