"""The turns of one session as its client makes them: each with an id and an expectation of its own, so that it can be
repeated without being applied twice. The blocking and the asyncio session share it; it makes no call.
"""

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
    """A turn that has begun: what to send, as often as it takes, and what has been delivered of the answer."""

    call: Call[Answer]
    _resume: Resume[Answer]
    _known: KnownPosition
    _open: OpenTurn
    _is_expectation_ours: bool  # and not the caller's
    _is_in_doubt: bool = False  # whether a try that failed has been applied

    @property
    def is_done(self) -> bool:
        return self._resume.position is not None

    def restart(self) -> None:
        """The request is sent again."""
        self._resume.restart()

    def accept(self, answer: Answer) -> list[Answer]:
        """What the caller has not got yet, this answer's and what had to wait for it. Raises AnswerChanged."""
        try:
            new = self._resume.accept(answer)
        except AnswerChanged:
            self.give_up()
            raise
        if self._resume.position is not None:
            self._known.succeed(self._open, self._resume.position)
        return new

    def is_overtaken(self, error: ServerError) -> bool:
        """To be asked after each failure: whether no more has happened than that another turn of this session, begun
        after this one, came first. Then the request expects nothing any more, and can be made again at once."""
        self._is_in_doubt = self._is_in_doubt or not error.reason or "in_doubt" in error.details
        is_mismatch = error.reason == "POSITION_MISMATCH" and self.call.request.HasField("expected_position")
        if not (is_mismatch and self._is_expectation_ours) or self._open.is_alone or self._is_in_doubt:
            return False
        self.call.request.ClearField("expected_position")
        return True

    def fail(self, error: ServerError) -> None:
        _fail(self._known, self._open, error)

    def withdraw(self) -> None:
        """It was not even asked for."""
        self._known.fail(self._open)

    def give_up(self) -> None:
        self._known.give_up(self._open)


class SessionTurns:
    """Begins the turns of one session. `turn_options` are as `split_options` gives them; what the caller set stays."""

    def __init__(self, session_id: str, known: KnownPosition) -> None:
        self.known = known
        self._session_id = session_id

    def generate(self, prompt: Prompt, turn_options: dict[str, Any]) -> SafeTurn[Piece]:
        """The seed is chosen here, so that a repeat which has to run again gives the same tokens."""
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
        """Around a rewind: what overlaps with it has no certain order. Yields what takes the answer."""
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
        except BaseException:  # it cannot even be said on the wire
            self.known.fail(turn)
            raise


def _fail(known: KnownPosition, turn: OpenTurn, error: ServerError) -> None:
    """ANSWER_GONE says that the turn has happened, and where the session stands now."""
    if error.reason == "ANSWER_GONE":
        known.succeed(turn, error.position)
    else:
        known.fail(turn)
