"""Going on with a stream that broke: the request is made again, and what was delivered already is left out.

Tokens are told apart by their number and text by its length, for a repeat gives the same ones in other portions.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from carousel.client.results import Piece, Prediction, ScorePiece

Answer = TypeVar("Answer")


class Resume(Protocol[Answer]):
    """What of a stream was delivered. `position` is None until the last answer has told it: then nothing more comes."""

    position: int | None

    def restart(self) -> None:
        """The stream begins anew."""
        ...

    def take(self, answer: Answer) -> Answer | None:
        """What of `answer` is new; None when nothing is."""
        ...


@dataclass(slots=True)
class _Count:
    """How much was delivered in all, and how much this time over."""

    delivered: int = 0
    seen: int = 0

    def take(self, length: int) -> int:
        """How much of the next `length` was delivered before."""
        known = min(length, max(0, self.delivered - self.seen))
        self.seen += length
        self.delivered = max(self.delivered, self.seen)
        return known


class _Counts(Generic[Answer]):
    """Counts by name, with what all streams share."""

    def __init__(self) -> None:
        self.position: int | None = None
        self._counts: defaultdict[tuple[str, int], _Count] = defaultdict(_Count)

    def restart(self) -> None:
        for count in self._counts.values():
            count.seen = 0

    def _known(self, name: str, branch: int, length: int) -> int:
        return self._counts[name, branch].take(length)


class GenerationResume(_Counts[Piece]):
    """Branches each have their own counts; the end of branch 0 is the stream's."""

    def take(self, answer: Piece) -> Piece | None:
        tokens = answer.tokens[self._known("tokens", answer.branch, len(answer.tokens)) :]
        text = answer.text[self._known("text", answer.branch, len(answer.text)) :]
        has_ended_before = self._known("end", answer.branch, int(answer.finished is not None)) > 0
        finished = None if has_ended_before else answer.finished
        if finished is not None and answer.branch == 0:
            self.position = finished.position
        if not (tokens or text or finished):
            return None
        return replace(answer, tokens=tokens, text=text, finished=finished)


class ScoringResume(_Counts[ScorePiece]):
    """The totals are the stream's end."""

    def take(self, answer: ScorePiece) -> ScorePiece | None:
        tokens = answer.tokens[self._known("tokens", 0, len(answer.tokens)) :]
        if answer.totals is not None:
            self.position = answer.totals.position
        if not (tokens or answer.totals):
            return None
        return replace(answer, tokens=tokens)


class PredictionResume(_Counts[Prediction]):
    """A prediction is one answer."""

    def take(self, answer: Prediction) -> Prediction:
        self.position = answer.position
        return answer
