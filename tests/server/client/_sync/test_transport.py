# Generated from tests/server/client/_async/test_transport.py by `make client`: change that file, not this one.
"""Over a scripted wire: early ends, late failures, the caller's timeout, interrupted calls."""

from typing import Any

import pytest
from tests.server.client._sync.conftest import Naps, read

from carousel.client import Retries, ServerError, ServerUnreachable
from carousel.client._sync.session import Session
from carousel.client._sync.transport import Transport
from carousel.client.core import calls
from carousel.client.core.connection import Connection
from carousel.client.core.options import CallOptions
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import sessions_pb2

TOKEN = lm.GenerateResponse(text="b", tokens=[lm.GeneratedToken(id=98)])
END = lm.GenerateResponse(finished=lm.Finished(position=2))
GONE = ServerUnreachable("here:1", "gone")


class Stopped(BaseException):
    """An exception that is not the call's failure: a cancelled task, or Ctrl-C."""


class Script:
    """A wire, its answers and its line in one object. Each call plays the next list: messages, or what is raised. An
    exception instead of a list is raised by a call that cannot start."""

    def __init__(self, *plays: Any) -> None:
        self.plays = list(plays)
        self.options: list[CallOptions] = []
        self.is_dropped = False
        self.is_over = True  # after a failure
        self._playing: list[Any] = []

    def stream(self, call: Any, options: CallOptions) -> "Script":
        self.options.append(options)
        self._playing = self._begin(self.plays.pop(0))
        return self

    @staticmethod
    def _begin(play: Any) -> list[Any]:
        if isinstance(play, BaseException):
            raise play
        return list(play)

    line = stream

    def ask(self, call: Any, options: CallOptions) -> Any:
        return self.stream(call, options).read()

    def read(self) -> Any:
        message = self._playing.pop(0) if self._playing else None
        if isinstance(message, BaseException):
            raise message
        return message

    def exchange(self, request: Any) -> Any:
        return self.read()

    def wait_until_open(self) -> None:
        """It is open at once."""

    def cancel(self) -> None:
        """Nothing runs."""

    def end(self, *, is_orderly: bool) -> None:
        """Records how the line ended."""

    def drop(self) -> None:
        self.is_dropped = True

    def close(self) -> None:
        """The line never opened."""


def _transport(script: Script, naps: Naps) -> Transport:
    return Transport(script, Connection("here:1", timeout_seconds=20), Retries(), naps)


def _session(script: Script, naps: Naps) -> Session:
    return Session(_transport(script, naps), "mine", position=0)


def test_an_end_without_a_last_answer_is_a_failure(naps: Naps) -> None:
    """The server ended the stream in order, but too early: the turn is retried."""
    script = Script([TOKEN], [TOKEN, END])
    pieces = read(_session(script, naps).generate("a"))
    assert [piece.text for piece in pieces] == ["b", ""]
    assert (script.plays, len(naps.seconds)) == ([], 1)


def test_a_failure_after_the_last_answer_is_none(naps: Naps) -> None:
    """However the connection ended, the turn is done."""
    script = Script([TOKEN, END, GONE])
    session = _session(script, naps)
    assert len(read(session.generate("a"))) == 2
    assert (session.position, naps.seconds) == (2, [])


@pytest.mark.parametrize("has_own", [False, True])
def test_each_attempt_gets_what_is_left_of_the_callers_time(naps: Naps, has_own: bool) -> None:
    """The client's or the call's own timeout applies: for a turn, a predictor's request and a plain call that is safe
    to retry."""
    options = CallOptions(timeout_seconds=10) if has_own else CallOptions()
    answer = lm.PredictResponse(position=1)
    script = Script([GONE], [END], [GONE], [answer], [GONE], [lm.ListModelsResponse()])
    session = _session(script, naps)
    read(session.generate("a", **options))
    session.predict("a", **options)
    _transport(script, naps).ask_safely(calls.models(), options)
    left = [one["timeout_seconds"] for one in script.options]
    assert all(seconds is not None and 5 < seconds <= (10 if has_own else 20) for seconds in left)
    assert [first > second for first, second in zip(left[::2], left[1::2], strict=True)] == [True] * 3  # type: ignore[operator]


def test_a_line_that_is_not_over_is_asked_again(naps: Naps) -> None:
    """After a refusal for load, no other line is started."""
    busy = ServerError("busy", code="RESOURCE_EXHAUSTED", reason="OVERLOADED", retry_after_seconds=0.5)
    script = Script([busy, lm.PredictResponse(position=1), busy, lm.PredictResponse(position=2)])
    script.is_over = False
    with _session(script, naps).predictor() as predict:
        assert [(predict("a")).position for _ in range(2)] == [1, 2]
    assert len(script.options) == 1
    assert min(naps.seconds) >= 0.5


def test_a_question_that_is_stopped_takes_its_line_along(naps: Naps) -> None:
    """Otherwise its answer would be taken for the next one's. The request no longer counts, although its error still
    refers to it."""
    script = Script([Stopped()], [sessions_pb2.Session(position=4)], [lm.PredictResponse(position=5)])
    session = _session(script, naps)
    predict = session.predictor()
    with pytest.raises(Stopped) as caught:
        predict("a")
    assert script.is_dropped
    assert session.position is None
    assert (session.get()).position == session.position == 4
    assert (predict("a")).position == 5
    assert caught.tb is not None


@pytest.mark.parametrize("plays", [[], [[GONE]]])
@pytest.mark.parametrize("turn", ["feed", "predict"])
def test_a_turn_that_cannot_be_asked_leaves_the_position(naps: Naps, plays: list[Any], turn: str) -> None:
    """The first attempt or a retry cannot be made, for example after the timeout. The session keeps its expected
    position."""
    script = Script(*plays, ServerError("late", code="DEADLINE_EXCEEDED"))
    session = _session(script, naps)
    with pytest.raises(ServerError, match="late"):
        getattr(session, turn)("a")
    assert session.position == 0


def test_a_question_that_is_refused_leaves_the_position(naps: Naps) -> None:
    """The answer was a refusal; the session keeps its expected position."""
    script = Script([ServerError("no", code="INTERNAL", reason="MODEL_FAILED")])
    session = _session(script, naps)
    with pytest.raises(ServerError, match="no"):
        session.predict("a")
    assert session.position == 0
