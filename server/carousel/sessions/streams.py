"""Which calls may be open at once, and which idle call ends when places run short. Only decides; closes nothing."""

from collections.abc import Callable
from dataclasses import dataclass

from carousel.errors import Overloaded
from carousel.settings import Settings
from carousel.shares import LimitsByOwner, OwnerLimits, Shares

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """The bounds on open calls."""

    max_streams: int
    reserved_streams: int = 0  # beyond `max_streams`, for owners below their share
    owner_limits: LimitsByOwner = OwnerLimits()

    @classmethod
    def of(cls, settings: Settings, owner_limits: LimitsByOwner | None = None) -> "StreamBounds":
        return cls(settings.max_streams, settings.reserved_streams, owner_limits or settings.owner_limits)


@dataclass(eq=False, slots=True)
class Place:
    """The place of one open call. `close` ends the call, perhaps after `close` returns."""

    owner: str
    close: Callable[[], None]
    is_taken: bool = True


class Streams:
    """The places of open calls. A single owner may have all places, and none of its calls ends for its own new call.
    When all are taken, an owner below its share gets the place idle for longest of the owner furthest above its share,
    or a reserved one."""

    def __init__(self, bounds: StreamBounds, look: Callable[[], None] = lambda: None) -> None:
        """Calls `look` before it looks for an idle call, so that idle calls can be marked first."""
        self._bounds = bounds
        self._look = look
        self._shares = Shares()
        self._idle: dict[str, dict[Place, None]] = {}  # by owner, the one idle for longest first

    def __repr__(self) -> str:
        return f"Streams({self._shares.total} of {self._bounds.max_streams} taken)"

    def enter(self, owner: str, close: Callable[[], None]) -> Place:
        """Takes a place until `leave`. May close another owner's idle call. Raises Overloaded."""
        bounds = self._bounds
        most = bounds.owner_limits.of(owner).max_calls
        if most is not None and self._shares.used(owner) >= most:
            raise _full(f"{most} calls of yours are open", "max_streams_per_owner")
        if self._shares.total >= bounds.max_streams:
            self._make_room(owner)
        self._shares.change(owner, 1)
        return Place(owner, close)

    def leave(self, place: Place) -> None:
        """Frees the place. A second call does nothing."""
        if place.is_taken:
            place.is_taken = False
            self._shares.change(place.owner, -1)
            self.wake(place)

    def rest(self, place: Place) -> None:
        """Notes that the call waits for its client."""
        if place.is_taken:
            self._idle.setdefault(place.owner, {})[place] = None

    def wake(self, place: Place) -> None:
        """Notes that the call works again."""
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
        if largest not in self._idle:  # rare, and the only expensive case
            largest = max(self._idle, key=self._shares.used, default=None)
        if largest is None or self._shares.used(largest) <= share:
            return None
        return next(iter(self._idle[largest]))


def _full(text: str, limit: str) -> Overloaded:
    return Overloaded(text, limit=limit, retry_seconds=_RETRY_SECONDS)
