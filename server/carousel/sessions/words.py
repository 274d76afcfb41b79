"""Likely whole words after a sequence's past and the letters typed so far: a beam search over spellings.

Every hypothesis is a turn of the engine from a snapshot that is not kept. So the beam shares batches with all other
work, and the session stays unchanged.
"""

import asyncio
import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carousel.bundle.tokenizer import Tokenizer
from carousel.engine.delivery import Ticket
from carousel.sessions.requests import Word
from carousel.turns import Array, Candidate, Ended, Predict, Predicted, Snapshot, Turn

_BEAM_WIDTH = 12
_NUM_BRANCHES = 48
_MAX_TOKENS = 24  # besides those that spell the prefix
_INNER = frozenset(b"'-_") | frozenset(range(0x80, 0x100))


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """The start of a word. `spelled` is its tokens' text; `unfed` are the last tokens, not yet in `snapshot`."""

    snapshot: Snapshot
    unfed: tuple[int, ...]
    spelled: bytes
    log_probability: float


_Answered = tuple[_Hypothesis, tuple[Candidate, ...], Snapshot]


class WordSearch:
    """Finds words over one vocabulary. Holds the spellings sorted, to look up the continuations of a prefix."""

    def __init__(self, tokenizer: Tokenizer, submit: Callable[[Turn], Ticket]) -> None:
        self._spellings = tokenizer.spellings
        self._submit = submit
        pairs = sorted((spelling, index) for index, spelling in enumerate(self._spellings) if spelling)
        self._sorted = [spelling for spelling, _ in pairs]
        self._ids_V = np.array([index for _, index in pairs], np.int64)
        self._turn = asyncio.Lock()  # one search at a time evaluates its answers

    async def find(self, start: Snapshot, prefix: str, num_words: int, owner: str = "") -> tuple[Word, ...]:
        """Returns words that begin with `prefix`, likeliest first. A word's probability includes that the word ends
        there. The turns of the search count as the owner's."""
        wanted = prefix.encode()
        live = [_Hypothesis(start, (), b"", 0.0)]
        found: dict[bytes, float] = {}  # word -> log-probability: a probability may be too small for a float
        for _ in range(_MAX_TOKENS + len(wanted) if num_words else 0):
            answers = await self._ask(live, wanted, owner)
            async with self._turn:  # a step answers many searches, and each takes a while
                live = self._select(self._expand(answers), wanted, found)
                await asyncio.sleep(0)
            if not live or _is_settled(found, num_words, live[0].log_probability):
                break
        best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:num_words]
        return tuple(Word(text.decode(errors="replace"), log_probability) for text, log_probability in best)

    async def _ask(self, live: Sequence[_Hypothesis], wanted: bytes, owner: str) -> list[_Answered]:
        """Returns each hypothesis with its candidates and its new snapshot. All run in one batch."""
        tickets = []
        try:
            for hypothesis in live:
                goal = Predict(_NUM_BRANCHES, self._continuations(wanted[len(hypothesis.spelled) :]))
                ticket = self._submit(Turn(hypothesis.snapshot, hypothesis.unfed, goal, owner=owner))
                tickets.append((hypothesis, ticket))
            return [(hypothesis, *await _answer(ticket)) for hypothesis, ticket in tickets]
        finally:
            for _, ticket in tickets:
                ticket.cancel()

    def _expand(self, answers: Sequence[_Answered]) -> list[_Hypothesis]:
        """Returns all hypotheses, one token longer."""
        return [
            self._extend(hypothesis, snapshot, candidate)
            for hypothesis, candidates, snapshot in answers
            for candidate in candidates
        ]

    def _extend(self, hypothesis: _Hypothesis, snapshot: Snapshot, candidate: Candidate) -> _Hypothesis:
        spelled = hypothesis.spelled + self._spellings[candidate.id]
        return _Hypothesis(snapshot, (candidate.id,), spelled, hypothesis.log_probability + candidate.log_probability)

    def _continuations(self, rest: bytes) -> Array | None:
        """Returns tokens that begin with `rest`, or that `rest` begins with; None when the prefix is fully spelled."""
        if not rest:
            return None
        found = [self._ids_V[self._find(rest) : self._find_behind(rest)]]
        for length in range(1, len(rest)):
            spelling = rest[:length]
            found.append(self._ids_V[self._find(spelling) : bisect.bisect_right(self._sorted, spelling)])
        return np.sort(np.concatenate(found))

    def _find(self, spelling: bytes) -> int:
        """Returns the spelling's place in the sorted list, whether it is there or not."""
        return bisect.bisect_left(self._sorted, spelling)

    def _find_behind(self, prefix: bytes) -> int:
        """Returns the place behind all spellings with the prefix: that of the prefix with its last byte below 0xff
        raised by one."""
        stem = prefix.rstrip(b"\xff")
        return self._find(stem[:-1] + bytes((stem[-1] + 1,))) if stem else len(self._sorted)

    def _select(self, hypotheses: Sequence[_Hypothesis], wanted: bytes, found: dict[bytes, float]) -> list[_Hypothesis]:
        """Moves ended words to `found`. Returns the likeliest of the rest."""
        live = []
        for hypothesis in hypotheses:
            end = _word_end(hypothesis.spelled, len(wanted))
            if end is None:
                live.append(hypothesis)
            elif hypothesis.spelled[:end].strip():
                word = hypothesis.spelled[:end]
                found[word] = float(np.logaddexp(found.get(word, -math.inf), hypothesis.log_probability))
        return sorted(live, key=lambda one: -one.log_probability)[:_BEAM_WIDTH]


async def _answer(ticket: Ticket) -> tuple[tuple[Candidate, ...], Snapshot]:
    candidates: tuple[Candidate, ...] = ()
    while True:
        for event in await ticket.next_events():
            if isinstance(event, Predicted):
                candidates = event.candidates
            if isinstance(event, Ended):
                return candidates, event.snapshot


def _word_end(spelled: bytes, num_typed: int) -> int | None:
    """Returns where the word ends, or None if it may continue. Leading white space belongs to the word. The typed
    letters may be anything."""
    num_spaces = len(spelled) - len(spelled.lstrip())
    if num_spaces == len(spelled):
        return None if b"\n" not in spelled else 0
    rest = enumerate(spelled[max(num_typed, num_spaces) :], max(num_typed, num_spaces))
    return next((at for at, byte in rest if byte not in _INNER and not chr(byte).isalnum()), None)


def _is_settled(found: dict[bytes, float], num_words: int, best_live: float) -> bool:
    """Whether no live hypothesis can still overtake the found words."""
    if len(found) < num_words:
        return False
    return sorted(found.values(), reverse=True)[num_words - 1] >= best_live
