# Generated from server/carousel/client/_async/session.py by `make client`: change that file, not this one.
"""A session as its user holds it: turns that happen exactly once, and moves through its past."""

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
from carousel.client.core.results import History, Piece, Prediction, ScorePiece, SessionInfo
from carousel.client.core.session_turns import SessionTurns


class Session:
    """One conversation: every call continues where the last one ended. The client's `session` makes one, its
    `open_session` goes on with one.

    Each turn carries an id and the position that the session is expected at. When the server is away or overloaded, or
    the connection breaks, the turn is asked for again, as the client's `retries` say, and is applied once all the same;
    a stream goes on where it stopped. Raises ServerError with reason POSITION_MISMATCH when the session is not where
    its last answer left it: somebody else advanced it, or a turn that failed here was applied after all. `get` goes on
    from where it is. With reason ANSWER_GONE the turn was applied, and its answer is no longer kept; the session knows
    where it stands, and goes on. AnswerChanged: a repeat was answered differently.
    """

    def __init__(self, transport: Transport, session_id: str, *, position: int | None = None) -> None:
        """`position` is where it stands, if that is known; otherwise the first answer tells."""
        self._transport = transport
        self._turns = SessionTurns(session_id, KnownPosition(position))
        self.session_id = session_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    @property
    def position(self) -> int | None:
        """After the last answer; None while that is not known."""
        return self._turns.known.value

    def feed(self, prompt: Prompt, **options: Unpack[TurnOptions]) -> int:
        """Let the model read `prompt`. Returns the new position."""
        finished = None
        for piece in self.generate(prompt, max_tokens=0, **options):
            finished = piece.finished
        if finished is None:
            raise ended_early()
        return finished.position

    def generate(self, prompt: Prompt = "", **options: Unpack[GenerateOptions]) -> Stream[Piece]:
        """As the client's, each token and each character once. The session moves on when the stream is read to its
        end; of a stream that is given up before, it may or may not."""
        turn_options, of_call = split_options(options, GenerateOptions)
        return self._transport.follow(self._turns.generate(prompt, turn_options), of_call)

    def predictor(self, **options: Unpack[CallOptions]) -> SessionPredictor:
        _, of_call = split_options(options, CallOptions)
        call = calls.predict(self.session_id)
        repeat = self._transport.repeat(of_call)
        return SessionPredictor(self._turns, repeat, lambda left: self._transport.line(call, left))

    def predict(self, prompt: Prompt = "", **options: Unpack[PredictOptions]) -> Prediction:
        """Feed `prompt` and name what may follow, as a predictor does, once."""
        turn_options, of_call = split_options(options, PredictOptions)
        with self.predictor(**of_call) as predict:
            return predict(prompt, **PredictFields(**turn_options))  # type: ignore[typeddict-item]

    def score(self, prompt: Prompt, *, top_g: int | None = None, **options: Unpack[TurnOptions]) -> Stream[ScorePiece]:
        """As the client's, each token once."""
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
        """New sessions that stand where this one stands or, at a position or checkpoint, stood. Default: one, or as
        many as ids are given."""
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
        """Go back; what came after is forgotten. Returns the position."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.rewind_session(self.session_id, position, checkpoint, expected_position, change_options)
        with self._turns.move() as succeed:
            info = self._transport.ask_safely(call, of_call)
            succeed(info)
        return info.position

    def checkpoint(self, name: str, **options: Unpack[ChangeOptions]) -> int:
        """Keep the current position under a name. Returns it."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.save_checkpoint(self.session_id, name, change_options)
        info = self._look(call, of_call)
        return info.position

    def history(self, **options: Unpack[CallOptions]) -> History:
        """Where `rewind` and `fork` can go."""
        return self._transport.ask_safely(session_calls.get_history(self.session_id), options)

    def export(
        self,
        ttl: timedelta | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        **options: Unpack[CallOptions],
    ) -> bytes:
        """The state, sealed; good for `ttl`, by default a day. The client's `import_session` takes it."""
        call = session_calls.export_session(self.session_id, ttl, position, checkpoint)
        return self._transport.ask_safely(call, options)

    def get(self, **options: Unpack[CallOptions]) -> SessionInfo:
        """The session as it is; the next turn expects it there."""
        return self._look(session_calls.get_session(self.session_id), options)

    def delete(self, **options: Unpack[ChangeOptions]) -> None:
        change_options, of_call = split_options(options, ChangeOptions)
        self._transport.ask_safely(session_calls.delete_session(self.session_id, change_options), of_call)

    def _look(self, call: Call[SessionInfo], options: CallOptions) -> SessionInfo:
        """A call that moves nothing and tells where the session stands."""
        looked = self._turns.known.look()
        info = self._transport.ask_safely(call, options)
        self._turns.known.learn(info.position, looked)
        return info
