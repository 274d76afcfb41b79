# Generated from server/carousel/client/_async/session.py by `make client`: change that file, not this one.
"""A session as its user sees it: turns that happen exactly once, and moves through its past."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Unpack

from carousel.client._sync.predictor import SessionPredictor
from carousel.client._sync.streams import Stream
from carousel.client._sync.transport import Transport
from carousel.client.core import calls, session_calls
from carousel.client.core.calls import Call
from carousel.client.core.errors import ended_early
from carousel.client.core.options import (
    CallOptions,
    ChangeOptions,
    GenerateOptions,
    PredictFields,
    PredictOptions,
    Prompt,
    TurnOptions,
    split_options,
)
from carousel.client.core.position import KnownPosition
from carousel.client.core.results import History, Inspected, Piece, Prediction, ScorePiece, SessionInfo
from carousel.client.core.session_turns import SessionTurns


class Session:
    """One conversation: every call continues where the last one ended. The client's `session` creates one, its
    `open_session` continues one.

    Each turn carries a request id and the session's expected position. When the server is away or overloaded, or the
    connection breaks, the client retries the turn as its `retries` says. The turn is still applied once, and a stream
    continues where it stopped. Raises ServerError with reason POSITION_MISMATCH when the session is not where its last
    answer left it: another caller advanced it, or a turn that failed here was applied after all. `get` continues from
    the current position. With reason ANSWER_GONE the turn was applied, but its answer is no longer kept; the session
    knows its position and can continue. AnswerChanged: a retry got a different answer.
    """

    def __init__(self, transport: Transport, session_id: str, *, position: int | None = None) -> None:
        """`position` is the session's position, if known; otherwise the first answer brings it."""
        self._transport = transport
        self._turns = SessionTurns(session_id, KnownPosition(position))
        self.session_id = session_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    @property
    def position(self) -> int | None:
        """The position after the last answer; None while unknown."""
        return self._turns.known.value

    def feed(self, prompt: Prompt, **options: Unpack[TurnOptions]) -> int:
        """Feeds `prompt` to the model. Returns the new position."""
        finished = None
        for piece in self.generate(prompt, max_tokens=0, **options):
            finished = piece.finished
        if finished is None:
            raise ended_early()
        return finished.position

    def generate(self, prompt: Prompt = "", **options: Unpack[GenerateOptions]) -> Stream[Piece]:
        """Works as the client's `generate`; each token and each character comes once. The session moves on when the
        caller reads the stream to its end. If the caller gives up the stream earlier, the session may or may not have
        moved."""
        turn_options, of_call = split_options(options, GenerateOptions)
        return self._transport.follow(self._turns.generate(prompt, turn_options), of_call)

    def predictor(self, **options: Unpack[CallOptions]) -> SessionPredictor:
        _, of_call = split_options(options, CallOptions)
        call = calls.predict(self.session_id)
        repeat = self._transport.repeat(of_call)
        return SessionPredictor(self._turns, repeat, lambda left: self._transport.line(call, left))

    def predict(self, prompt: Prompt = "", **options: Unpack[PredictOptions]) -> Prediction:
        """Feeds `prompt` and returns the likeliest continuations, as a predictor does, once."""
        turn_options, of_call = split_options(options, PredictOptions)
        with self.predictor(**of_call) as predict:
            return predict(prompt, **PredictFields(**turn_options))  # type: ignore[typeddict-item]

    def score(self, prompt: Prompt, *, top_g: int | None = None, **options: Unpack[TurnOptions]) -> Stream[ScorePiece]:
        """Works as the client's `score`; each token comes once."""
        turn_options, of_call = split_options(options, TurnOptions)
        return self._transport.follow(self._turns.score(prompt, top_g, turn_options), of_call)

    def fork(
        self,
        count: int | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        new_ids: Sequence[str] = (),
        **options: Unpack[ChangeOptions],
    ) -> list["Session"]:
        """Creates sessions that start where this session is now, or where it was at a position or checkpoint. Default:
        one, or one for each of `new_ids`."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.fork_session(self.session_id, position, checkpoint, count, new_ids, change_options)
        made = self._transport.ask_safely(call, of_call)
        return [Session(self._transport, one.session_id, position=one.position) for one in made]

    def rewind(
        self,
        *,
        position: int | None = None,
        checkpoint: str = "",
        expected_position: int | None = None,
        **options: Unpack[ChangeOptions],
    ) -> int:
        """Moves the session back; everything after that point is lost. Returns the position."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.rewind_session(self.session_id, position, checkpoint, expected_position, change_options)
        with self._turns.move() as succeed:
            info = self._transport.ask_safely(call, of_call)
            succeed(info)
        return info.position

    def checkpoint(self, name: str, **options: Unpack[ChangeOptions]) -> int:
        """Saves the current position under a name. Returns the position."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.save_checkpoint(self.session_id, name, change_options)
        info = self._look(call, of_call)
        return info.position

    def history(self, **options: Unpack[CallOptions]) -> History:
        """Returns the points that `rewind` and `fork` accept."""
        return self._transport.ask_safely(session_calls.get_history(self.session_id), options)

    def export(
        self,
        ttl: timedelta | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        **options: Unpack[CallOptions],
    ) -> bytes:
        """Returns the sealed state, valid for `ttl` (default: a day). The client's `import_session` reads it."""
        call = session_calls.export_session(self.session_id, ttl, position, checkpoint)
        return self._transport.ask_safely(call, options)

    def inspect(
        self,
        prompt: Prompt = "",
        *,
        position: int | None = None,
        checkpoint: str = "",
        tensors: Sequence[str] = (),
        num_candidates: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream[Inspected]:
        """Works as the client's `inspect`. It is no turn: the session stays where it is, and the call is made once."""
        call = session_calls.inspect_session(prompt, self.session_id, "", position, checkpoint, tensors, num_candidates)
        return self._transport.stream(call, options)

    def get(self, **options: Unpack[CallOptions]) -> SessionInfo:
        """Returns the session's current data; the next turn expects that position."""
        return self._look(session_calls.get_session(self.session_id), options)

    def delete(self, **options: Unpack[ChangeOptions]) -> None:
        change_options, of_call = split_options(options, ChangeOptions)
        self._transport.ask_safely(session_calls.delete_session(self.session_id, change_options), of_call)

    def _look(self, call: Call[SessionInfo], options: CallOptions) -> SessionInfo:
        """Makes a call that moves nothing but returns the session's position."""
        looked = self._turns.known.look()
        info = self._transport.ask_safely(call, options)
        self._turns.known.learn(info.position, looked)
        return info
