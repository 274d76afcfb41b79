"""Predictions over one stream that stays open, for the blocking client: on a sequence of its own, or on a session's."""

import queue
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Self, Unpack

from carousel.client import calls
from carousel.client.blocking_transport import Repeat, Stream
from carousel.client.errors import ServerError, ended_early
from carousel.client.options import CallOptions, PredictWishes, Prompt, split_options
from carousel.client.results import Prediction
from carousel.client.session_turns import SafeTurn, SessionTurns


class Predictor:
    """Predictions on one sequence, over one stream. Use it as a context manager, which ends the stream."""

    def __init__(
        self, start: Callable[[Iterator[Any]], Stream[Prediction]], session_id: str = "", model: str = ""
    ) -> None:
        self._where = (session_id, model)
        self._line = _Line(start)

    def __call__(self, prompt: Prompt = "", **wishes: Unpack[PredictWishes]) -> Prediction:
        """Feed `prompt` and name what may follow: k tokens, and words that begin with `word_prefix`, which is not fed.

        Raises ServerError; the stream is over then.
        """
        wanted, _ = split_options(wishes, PredictWishes)
        return self._line.exchange(calls.predict_request(prompt, *self._where, wanted))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._line.end(is_orderly=kind is None)


class SessionPredictor:
    """Predictions on a session. When the stream breaks, another one is opened and the question is put again."""

    def __init__(
        self,
        turns: SessionTurns,
        repeat: Repeat,
        start: Callable[[Iterator[Any], CallOptions], Stream[Prediction]],
    ) -> None:
        self._turns = turns
        self._repeat = repeat
        self._start = start
        self._line: _Line | None = self._open()

    def __call__(self, prompt: Prompt = "", **wishes: Unpack[PredictWishes]) -> Prediction:
        """As `Predictor`; the session moves on once, however often the question has to be put."""
        wanted, _ = split_options(wishes, PredictWishes)
        turn = self._turns.predict(prompt, wanted)
        try:
            return self._ask(turn)
        except BaseException:  # interrupted; after a failure this changes nothing
            turn.give_up()
            if self._line is not None:
                self._line.end(is_orderly=False)
                self._line = None
            raise

    def _ask(self, turn: SafeTurn[Prediction]) -> Prediction:
        while True:
            try:
                self._line = self._line or self._open()
                prediction = self._line.exchange(turn.call.request)
            except ServerError as error:
                self._line = None
                try:
                    if not turn.is_overtaken(error):
                        self._repeat.pause_after(error)
                except ServerError:
                    turn.fail(error)
                    raise
            else:
                turn.take(prediction)
                self._repeat.attempts.note_progress()
                return prediction

    def _open(self) -> "_Line":
        return _Line(lambda requests: self._start(requests, self._repeat.options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if self._line is not None:
            with suppress(ServerError):  # what was asked has been answered
                self._line.end(is_orderly=kind is None)


class _Line:
    """A stream in both directions: a request, its answer, the next request."""

    def __init__(self, start: Callable[[Iterator[Any]], Stream[Prediction]]) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream = start(iter(self._requests.get, None))

    def exchange(self, request: Any) -> Prediction:
        self._requests.put(request)
        try:
            prediction = next(self._stream, None)
        except ServerError:
            self.end(is_orderly=False)
            raise
        if prediction is None:
            self.end(is_orderly=False)
            raise ended_early()
        return prediction

    def end(self, *, is_orderly: bool) -> None:
        """In order: the server has the time to say that it is over, too."""
        self._requests.put(None)
        if is_orderly:
            next(self._stream, None)
        self._stream.close()
