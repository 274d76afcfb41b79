"""The turns of one session on the client's side. Each has its own id and expected position, so that a retry is not
applied twice. The blocking and the asyncio session share this module; it makes no call."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from carousel.client.core import calls
from carousel.client.core.calls import Call, identify
from carousel.client.core.errors import AnswerChanged, ServerError
from carousel.client.core.options import Prompt
from carousel.client.core.position import KnownPosition, OpenTurn
from carousel.client.core.results import Piece, Prediction, ScorePiece, SessionInfo
from carousel.client.core.resume import GenerationResume, PredictionResume, Resume, ScoringResume

Answer = TypeVar("Answer")


@dataclass(slots=True)
class SafeTurn(Generic[Answer]):
    """A turn that has begun: the request to send, and send again, and how much of the answer was delivered."""

    call: Call[Answer]
    _resume: Resume[Answer]
    _known: KnownPosition
    _open: OpenTurn
    _is_expectation_ours: bool  # not the caller's
    _is_in_doubt: bool = False  # whether a failed attempt may have been applied

    @property
    def is_done(self) -> bool:
        return self._resume.position is not None

    def restart(self) -> None:
        """Call this before the request is sent again."""
        self._resume.restart()

    def accept(self, answer: Answer) -> list[Answer]:
        """Returns what is new for the caller, including earlier parts that had to wait. Raises AnswerChanged."""
        try:
            new = self._resume.accept(answer)
        except AnswerChanged:
            self.give_up()
            raise
        if self._resume.position is not None:
            self._known.succeed(self._open, self._resume.position)
        return new

    def is_overtaken(self, error: ServerError) -> bool:
        """Call this after each failure. Returns whether the only problem is another turn of this session that began
        later and came first. Then the request drops its expectation and can be retried at once."""
        self._is_in_doubt = self._is_in_doubt or not error.reason or "in_doubt" in error.details
        is_mismatch = error.reason == "POSITION_MISMATCH" and self.call.request.HasField("expected_position")
        if not (is_mismatch and self._is_expectation_ours) or self._open.is_alone or self._is_in_doubt:
            return False
        self.call.request.ClearField("expected_position")
        return True

    def fail(self, error: ServerError) -> None:
        _fail(self._known, self._open, error)

    def withdraw(self) -> None:
        """The request was never sent."""
        self._known.fail(self._open)

    def give_up(self) -> None:
        self._known.give_up(self._open)


class SessionTurns:
    """Begins the turns of one session. `turn_options` come from `split_options`; the caller's own values stay."""

    def __init__(self, session_id: str, known: KnownPosition) -> None:
        self.known = known
        self._session_id = session_id

    def generate(self, prompt: Prompt, turn_options: dict[str, Any]) -> SafeTurn[Piece]:
        """The seed is chosen here, so that a retry that runs again gives the same tokens."""
        seeded = {"seed": secrets.randbits(63)} | turn_options
        make = lambda guarded: calls.generate(prompt, self._session_id, "", guarded)  # noqa: E731
        return self._begin(make, seeded, GenerationResume())

    def score(self, prompt: Prompt, top_g: int | None, turn_options: dict[str, Any]) -> SafeTurn[ScorePiece]:
        make = lambda guarded: calls.score(prompt, self._session_id, "", top_g, guarded)  # noqa: E731
        return self._begin(make, turn_options, ScoringResume())

    def predict(self, prompt: Prompt, turn_options: dict[str, Any]) -> SafeTurn[Prediction]:
        """One message of a prediction stream."""
        make = lambda guarded: calls.predict(  # noqa: E731
            self._session_id, calls.predict_request(prompt, self._session_id, "", guarded)
        )
        return self._begin(make, turn_options, PredictionResume())

    @contextmanager
    def move(self) -> Iterator[Callable[[SessionInfo], None]]:
        """Wraps a rewind: a turn that overlaps it has no certain order. Yields a function for the answer."""
        turn = self.known.begin()
        try:
            yield lambda info: self.known.succeed(turn, info.position)
        except ServerError as error:
            _fail(self.known, turn, error)
            raise
        finally:
            self.known.give_up(turn)  # when it has neither succeeded nor failed

    def _begin(
        self, make: Callable[[dict[str, Any]], Call[Answer]], turn_options: dict[str, Any], resume: Resume[Answer]
    ) -> SafeTurn[Answer]:
        turn = self.known.begin()
        try:
            guarded = identify(turn_options)
            if turn.expected_position is not None:
                guarded.setdefault("expected_position", turn.expected_position)
            call = make(guarded)
            return SafeTurn(call, resume, self.known, turn, "expected_position" not in turn_options)
        except BaseException:  # the wire cannot express the request
            self.known.fail(turn)
            raise


def _fail(known: KnownPosition, turn: OpenTurn, error: ServerError) -> None:
    """With ANSWER_GONE the turn was applied, and the error holds the session's position."""
    if error.reason == "ANSWER_GONE":
        known.succeed(turn, error.position)
    else:
        known.fail(turn)
