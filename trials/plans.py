"""The clients of a chaos run, and how each reaches the servers."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from trials.histories import History

from carousel.client import Tls

OWNER_KEY = "x-user"
TlsOf = Callable[[str], Tls]  # of an owner's clients


def draw_seed() -> int:
    """Returns a seed that is short enough to print and type."""
    return random.SystemRandom().randrange(100_000)


@dataclass(frozen=True, slots=True)
class Plan:
    """What all clients do."""

    seed: int
    num_turns: int  # of each session
    vocabulary_size: int
    pause_seconds: float  # between the turns of a session, on average
    idle_seconds: float  # after which the servers end an unused session
    num_owners: int = 2  # they choose the same session ids


@dataclass(frozen=True, slots=True)
class Way:
    """One client's way to the servers. Another owner's client may use the same session id."""

    address: str
    owner: str
    session_id: str
    tls_of: "TlsOf | None" = None

    @property
    def tls(self) -> Tls | None:
        """The certificate names the owner."""
        return None if self.tls_of is None else self.tls_of(self.owner)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-session-id", self.session_id), (OWNER_KEY, self.owner))


class ClientKind(Protocol):
    """A client from its first call to its last. It never raises for a server's answer: the history records that."""

    def __call__(self, way: Way, plan: Plan, dice: random.Random) -> Awaitable[History]: ...
