"""Predictions over a line that stays open: on a separate sequence or on a session."""

from collections.abc import Callable
from typing import Any, Self, Unpack

from carousel.client._async.repeat import Repeat
from carousel.client._async.wire import Line
from carousel.client.core import calls
from carousel.client.core.door import Door
from carousel.client.core.errors import ServerError, cancelled
from carousel.client.core.options import CallOptions, PredictFields, Prompt, split_options
from carousel.client.core.results import Prediction
from carousel.client.core.retries import is_refused_for_load
from carousel.client.core.session_turns import SafeTurn, SessionTurns


class AsyncPredictor:
    """Predictions on one sequence, over one stream. Use it as a context manager; its exit ends the stream.

    A predictor takes one request at a time: a second one meanwhile raises RuntimeError and does not disturb the first.
    """

    def __init__(
        self,
        repeat: Repeat,
        start: Callable[[CallOptions], Line],
        parse: Callable[[Any], Prediction],
        where: tuple[str, str],
    ) -> None:
        """`where` is the session id and the model."""
        self._repeat = repeat
        self._start = start
        self._parse = parse
        self._where = where
        self._line = start(repeat.options)
        self._is_carried = False  # the line has its own sequence, which has begun
        self._is_left = False  # its block has ended
        self._door = Door()

    async def __call__(self, prompt: Prompt = "", **turn_options: Unpack[PredictFields]) -> Prediction:
        """Feeds `prompt` and returns the likeliest continuations: k tokens, and words that begin with `word_prefix`,
        which is not fed.

        Raises ServerError; the stream has then ended. A request that the server refuses for load is first retried, as
        the client's `retries` says, unless the stream ended and took its own sequence with it.
        """
        wanted, _ = split_options(turn_options, PredictFields)
        request = calls.predict_request(prompt, *self._where, wanted)
        with self._door:
            try:
                answer = self._parse(await self._ask(request))
            except BaseException:
                self._line.drop()
                raise
        self._is_carried = not self._where[0]
        return answer

    async def _ask(self, request: Any) -> Any:
        while not self._is_left:
            try:
                answer = await self._line.exchange(request)
            except ServerError as error:
                if not is_refused_for_load(error) or (self._is_carried and self._line.is_over):
                    raise
                await self._repeat.pause_after(error)
                if self._line.is_over and not self._is_left:  # ended during the retries
                    self._line = self._start(self._repeat.options)
            else:
                self._repeat.attempts.note_progress()
                return answer
        raise cancelled()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._is_left = True
        await self._line.end(is_orderly=kind is None)


class AsyncSessionPredictor:
    """Predictions on a session. When the stream breaks, the predictor opens another and sends the request again. After
    its block it answers nothing.

    A predictor takes one request at a time, like a plain predictor. Predictors of the same session do not disturb each
    other.
    """

    def __init__(self, turns: SessionTurns, repeat: Repeat, start: Callable[[CallOptions], Line]) -> None:
        self._turns = turns
        self._repeat = repeat
        self._start = start
        self._line: Line | None = start(repeat.options)
        self._is_left = False  # its block has ended
        self._door = Door()

    async def __call__(self, prompt: Prompt = "", **turn_options: Unpack[PredictFields]) -> Prediction:
        """Works as a plain predictor does; the session moves on once, however often the request is sent."""
        wanted, _ = split_options(turn_options, PredictFields)
        with self._door:
            turn = self._turns.predict(prompt, wanted)
            try:
                return await self._ask(turn)
            except BaseException:  # cancelled or interrupted; after a failure this changes nothing
                turn.give_up()
                line, self._line = self._line, None
                if line is not None:
                    line.drop()
                raise

    async def _ask(self, turn: SafeTurn[Prediction]) -> Prediction:
        while True:
            try:
                prediction = turn.call.parse(await self._open().exchange(turn.call.request))
            except ServerError as error:
                if self._line is not None and self._line.is_over:
                    self._line = None
                await self._pause_after(error, turn)
            else:
                turn.accept(prediction)
                self._repeat.attempts.note_progress()
                return prediction

    def _open(self) -> Line:
        if self._is_left:
            raise cancelled()
        if self._line is None:
            self._line = self._start(self._repeat.options)
        return self._line

    async def _pause_after(self, error: ServerError, turn: SafeTurn[Prediction]) -> None:
        try:
            if not turn.is_overtaken(error):
                await self._repeat.pause_after(error)
        except ServerError:
            turn.fail(error)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._is_left = True
        if self._line is not None:
            await self._line.end(is_orderly=kind is None)
