"""How much streams may carry without a session, shared among owners like sessions. Only decides; frees nothing."""

from typing import Protocol

from carousel.errors import Overloaded
from carousel.sessions.order import Key
from carousel.shares import Shares

CARRIER_BYTES = 2048  # what a carried sequence takes besides its state
_LIMIT = "max_carried_bytes"
_RETRY_SECONDS = 1.0


class Carrier(Protocol):
    """What carries one sequence. Carriers are compared by identity."""

    @property
    def is_busy(self) -> bool:
        """Whether a message is being answered now."""
        ...

    def give_up(self) -> Key | None:
        """Gives up the sequence for good. Returns the key under which it must still be dropped, if it has one."""
        ...


class CarriedRoom:
    """The bytes that all carried sequences share; each takes the same. When the room is full, an owner below its share
    takes the place of a sequence of the owner furthest above its share: the least recently used one, never one in use.
    Other owners are refused. Without `evicts`, all owners are refused."""

    def __init__(self, max_bytes: int, weight: int, *, evicts: bool) -> None:
        """`weight` is the size of one sequence, in bytes."""
        self._max_bytes = max_bytes
        self._weight = weight
        self._evicts = evicts
        self._shares = Shares()
        self._carriers: dict[str, dict[Carrier, None]] = {}  # by owner, the least recently used first

    def __repr__(self) -> str:
        return f"CarriedRoom({self._shares.total} of {self._max_bytes} bytes)"

    def find_victim(self, owner: str) -> Carrier | None:
        """Returns None when there is room. Otherwise removes and returns the carrier that must give up before the owner
        enters. Raises Overloaded."""
        if self._shares.total + self._weight <= self._max_bytes:
            return None
        victim_owner, victim = self._choose(owner)
        self.leave(victim_owner, victim)
        return victim

    def enter(self, owner: str, carrier: Carrier) -> None:
        """Takes room for the carrier, until `leave`."""
        self._shares.change(owner, self._weight)
        self._carriers.setdefault(owner, {})[carrier] = None

    def touch(self, owner: str, carrier: Carrier) -> None:
        """Marks the carrier as just used."""
        carriers = self._carriers.get(owner, {})
        if carrier in carriers:
            carriers[carrier] = carriers.pop(carrier)

    def leave(self, owner: str, carrier: Carrier) -> None:
        """Frees the carrier's room. A second call does nothing."""
        carriers = self._carriers.get(owner, {})
        if carriers.pop(carrier, carrier) is None:
            self._shares.change(owner, -self._weight)
            if not carriers:
                del self._carriers[owner]

    def _choose(self, owner: str) -> tuple[str, Carrier]:
        found: list[Carrier] = []

        def accept(other: str) -> bool:
            found.extend([one for one in [next(filter(_is_idle, self._carriers[other]), None)] if one is not None])
            return bool(found)

        share = self._shares.share(self._max_bytes, owner)
        if self._evicts and self._shares.used(owner) + self._weight <= share:
            largest = self._shares.largest(share, accept)
            if largest is not None:
                return largest, found[0]
        text = f"{self._shares.total} bytes are carried by streams without a session already"
        raise Overloaded(text, limit=_LIMIT, retry_seconds=_RETRY_SECONDS)


def _is_idle(carrier: Carrier) -> bool:
    return not carrier.is_busy
