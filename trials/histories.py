"""What clients request and what answers they get: the clients write these values, the checker reads them."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Call = Literal["generate", "predict", "score"]


@dataclass(frozen=True, slots=True)
class Wish:
    """The request of a turn. Equal wishes at equal points of equal sessions get equal answers."""

    call: Call
    ids: tuple[int, ...]
    max_tokens: int  # of generate
    seed: int

    @property
    def size(self) -> int:
        """The tokens by which the turn moves its session: nothing here ends a generation early."""
        return len(self.ids) + (self.max_tokens if self.call == "generate" else 0)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that the server acknowledged. `position` is the session's position after it; None when the server had
    forgotten the answer (ANSWER_GONE)."""

    wish: Wish
    position: int | None
    answer: tuple[float, ...]  # token ids or log-probabilities


@dataclass(slots=True)
class Line:
    """The turns that lead to a session's position, oldest first where turns do not overlap."""

    turns: list[Turn] = field(default_factory=list)
    final_position: int | None = None  # from the final query; None: it was impossible

    @property
    def size(self) -> int:
        return sum(turn.wish.size for turn in self.turns)

    def cut(self, position: int) -> "Line":
        """Returns the line up to a boundary, for a fork or after a rewind. Turns must be in order."""
        return Line([turn for turn in self.turns if (turn.position or 0) <= position])


@dataclass(frozen=True, slots=True)
class Listing:
    """One owner's sessions by id, with their positions: as expected and as the server lists them."""

    expected: Mapping[str, int]
    listed: Mapping[str, int]


@dataclass(slots=True)
class History:
    """All answers that one client got."""

    kind: str
    lines: list[Line] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    num_retries: int = 0
    trouble: str = ""  # why it could not go on
    trouble_reason: str = ""  # the server's name for that
    heard_at: float = field(default_factory=time.monotonic)  # the last answer
    silent_seconds: float = 0.0  # from there to the trouble

    def hear(self) -> None:
        """An answer has come."""
        self.heard_at = time.monotonic()

    def note_trouble(self, text: str, reason: str = "") -> None:
        self.trouble, self.trouble_reason = text, reason
        self.silent_seconds = time.monotonic() - self.heard_at

    def is_starved(self, idle_seconds: float) -> bool:
        """Whether the session expired as it must, since no server served its client for so long."""
        return self.trouble_reason == "SESSION_EXPIRED" and self.silent_seconds > idle_seconds


def draw_wish(dice: random.Random, vocabulary_size: int) -> Wish:
    """A short turn of any kind."""
    call: Call = dice.choice(("generate", "generate", "predict", "score"))
    ids = tuple(dice.randrange(2, vocabulary_size) for _ in range(dice.randint(1, 6)))
    return Wish(call, ids, dice.randint(1, 12), dice.getrandbits(32))
