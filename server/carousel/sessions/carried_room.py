"""How much streams may carry without a session, shared among owners as sessions are. Decides; frees nothing itself."""

from typing import Protocol

from carousel.errors import Overloaded
from carousel.sessions.order import Key
from carousel.shares import Shares

CARRIER_BYTES = 2048  # of what carries a sequence, beside its state
_LIMIT = "max_carried_bytes"
_RETRY_SECONDS = 1.0


class Carrier(Protocol):
    """Carries one sequence. As a key it is itself."""

    @property
    def is_busy(self) -> bool:
        """A message of it is being answered."""
        ...

    def give_up(self) -> Key | None:
        """What it carries is gone for good. The key under which it is still to be dropped, if it is kept under one."""
        ...


class CarriedRoom:
    """All sequences of a model weigh the same. When the room is full, whoever has less than his share gets the place of
    the sequence that was not used for longest, of the owner furthest above his, never of one in use; the others are
    refused. Where nobody `evicts`, all are."""

    def __init__(self, max_bytes: int, weight: int, *, evicts: bool) -> None:
        """`weight` in bytes."""
        self._max_bytes = max_bytes
        self._weight = weight
        self._evicts = evicts
        self._shares = Shares()
        self._carriers: dict[str, dict[Carrier, None]] = {}  # by owner, those not used for longest first

    def __repr__(self) -> str:
        return f"CarriedRoom({self._shares.total} of {self._max_bytes} bytes)"

    def find_victim(self, owner: str) -> Carrier | None:
        """Who must give up before the owner may enter, and is not in the room any more; None when there is room. Raises
        Overloaded."""
        if self._shares.total + self._weight <= self._max_bytes:
            return None
        victim_owner, victim = self._choose(owner)
        self.leave(victim_owner, victim)
        return victim

    def enter(self, owner: str, carrier: Carrier) -> None:
        """To be left again."""
        self._shares.change(owner, self._weight)
        self._carriers.setdefault(owner, {})[carrier] = None

    def touch(self, owner: str, carrier: Carrier) -> None:
        """It is used."""
        carriers = self._carriers.get(owner, {})
        if carrier in carriers:
            carriers[carrier] = carriers.pop(carrier)

    def leave(self, owner: str, carrier: Carrier) -> None:
        """Again is fine."""
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
