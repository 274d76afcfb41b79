"""Continues a stream that broke: the request is sent again, and the part already delivered is left out.

A retry gives the same answer in different portions, so tokens are matched by their number and text by its length. A
running digest of ids and text checks that the answer is the same: nothing new is returned before everything delivered
has come again. The digest leaves out log-probabilities: replicas on other processors may differ in the last bits.
"""

import array
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from carousel.client.core.errors import AnswerChanged
from carousel.client.core.results import Finished, GeneratedToken, Piece, Prediction, ScoredToken, ScorePiece

Answer = TypeVar("Answer")
Items = TypeVar("Items", bound=Sequence[object])

_TOLERANCE = 0.01  # nats, or a hundredth of a log-probability far below 0; other states differ more


class Resume(Protocol[Answer]):
    """How much of a stream was delivered. The last answer sets `position`; until then it is None, and afterwards
    nothing more comes."""

    position: int | None

    def restart(self) -> None:
        """Prepares for the stream to start from its beginning."""
        ...

    def accept(self, answer: Answer) -> list[Answer]:
        """Returns what is new since the last call, including earlier parts that had to wait. Raises AnswerChanged."""
        ...


class _Digested(Generic[Items]):
    """How much of one sequence was delivered, with its digest, and how much of that has come again.

    `encode` gives the same bytes for a sequence, in any portions.
    """

    def __init__(self, encode: Callable[[Items], bytes]) -> None:
        self._encode = encode
        self._length = self._num_seen = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._again = hashlib.blake2b(digest_size=16)

    @property
    def is_seen(self) -> bool:
        return self._num_seen == self._length

    def restart(self) -> None:
        self._num_seen = 0
        self._again = hashlib.blake2b(digest_size=16)

    def deliver(self, items: Items) -> None:
        self._digest.update(self._encode(items))
        self._length += len(items)
        self._num_seen = self._length

    def count_known(self, items: Items) -> int:
        """Returns how many of the next `items` were delivered before. Raises AnswerChanged when they differ."""
        num_known = min(len(items), self._length - self._num_seen)
        if num_known:
            self._again.update(self._encode(items[:num_known]))  # type: ignore[arg-type]  # a slice is of its kind
            self._num_seen += num_known
            if self.is_seen and self._again.digest() != self._digest.digest():
                raise AnswerChanged()
        return num_known


def _encode_ids(tokens: Sequence[GeneratedToken]) -> bytes:
    return array.array("q", [token.id for token in tokens]).tobytes()


def _encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _encode_ends(ends: Sequence[Finished]) -> bytes:
    """Encodes what a retry has in common with the first attempt; the durable position grows meanwhile."""
    facts = [(end.reason, end.stop, end.position, end.num_generated_tokens, end.seed) for end in ends]
    return "".join(map(repr, facts)).encode()


def _encode_scored(tokens: Sequence[ScoredToken]) -> bytes:
    return "".join(f"{token.id}:{len(token.text)}:{token.text}" for token in tokens).encode("utf-8", "surrogatepass")


@dataclass(slots=True)
class _Branch:
    tokens: _Digested[tuple[GeneratedToken, ...]] = field(default_factory=lambda: _Digested(_encode_ids))
    text: _Digested[str] = field(default_factory=lambda: _Digested(_encode_text))
    ends: _Digested[tuple[Finished, ...]] = field(default_factory=lambda: _Digested(_encode_ends))

    @property
    def parts(self) -> "tuple[_Digested[tuple[GeneratedToken, ...]], _Digested[str], _Digested[tuple[Finished, ...]]]":
        return self.tokens, self.text, self.ends

    def leave_out_known(self, piece: Piece) -> Piece:
        ends = _ends(piece)
        return replace(
            piece,
            tokens=piece.tokens[self.tokens.count_known(piece.tokens) :],
            text=piece.text[self.text.count_known(piece.text) :],
            finished=None if self.ends.count_known(ends) else piece.finished,
        )

    def deliver(self, piece: Piece) -> None:
        self.tokens.deliver(piece.tokens)
        self.text.deliver(piece.text)
        self.ends.deliver(_ends(piece))


def _ends(piece: Piece) -> tuple[Finished, ...]:
    return () if piece.finished is None else (piece.finished,)


class GenerationResume:
    """Each branch has its own digest; the end of branch 0 ends the stream."""

    def __init__(self) -> None:
        self.position: int | None = None
        self._branches: defaultdict[int, _Branch] = defaultdict(_Branch)
        self._held: list[Piece] = []  # new, but part of what was delivered has not come again yet
        self._is_repeat = False

    def restart(self) -> None:
        self._held = []
        self._is_repeat = True
        for branch in self._branches.values():
            for part in branch.parts:
                part.restart()

    def accept(self, answer: Piece) -> list[Piece]:
        new = self._branches[answer.branch].leave_out_known(answer)
        if new.tokens or new.text or new.finished:
            self._held.append(new)
        if self._is_repeat and not all(part.is_seen for branch in self._branches.values() for part in branch.parts):
            if answer.finished is not None and answer.branch == 0:  # shorter than what was delivered
                raise AnswerChanged()
            return []
        self._is_repeat = False
        return self._release()

    def _release(self) -> list[Piece]:
        released, self._held = self._held, []
        for piece in released:
            self._branches[piece.branch].deliver(piece)
            if piece.finished is not None and piece.branch == 0:
                self.position = piece.finished.position
        return released


class ScoringResume:
    """The totals end the stream. The caller knows the tokens, which do not identify the state that scores them, so the
    log-probabilities are compared too, with a tolerance."""

    def __init__(self) -> None:
        self.position: int | None = None
        self._tokens: _Digested[tuple[ScoredToken, ...]] = _Digested(_encode_scored)
        self._scores = array.array("d")
        self._num_compared = 0

    def restart(self) -> None:
        self._tokens.restart()
        self._num_compared = 0

    def accept(self, answer: ScorePiece) -> list[ScorePiece]:
        num_known = self._tokens.count_known(answer.tokens)
        self._compare(answer.tokens[:num_known])
        new = replace(answer, tokens=answer.tokens[num_known:])
        self._scores.extend(token.log_probability for token in new.tokens)
        if new.tokens:
            self._tokens.deliver(new.tokens)
        if answer.totals is not None:
            if not self._tokens.is_seen:
                raise AnswerChanged()
            self.position = answer.totals.position
        return [new] if new.tokens or new.totals else []

    def _compare(self, known: Sequence[ScoredToken]) -> None:
        for token in known:
            before = self._scores[self._num_compared]
            self._num_compared += 1
            if not math.isclose(token.log_probability, before, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
                raise AnswerChanged()


class PredictionResume:
    """A prediction is one answer."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position: int | None = None

    def restart(self) -> None:
        """Nothing to do: nothing was delivered."""

    def accept(self, answer: Prediction) -> list[Prediction]:
        self.position = answer.position
        return [answer]
