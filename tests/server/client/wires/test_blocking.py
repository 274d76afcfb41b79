"""Ctrl-C and reader threads end calls and turns, and leave nothing behind."""

import gc
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.server.fake_service import FakeService, Mishap

from carousel.client import Client, ServerError, Stream
from carousel.client.core import calls
from carousel.client.core.calls import Call
from carousel.client.core.connection import Connection
from carousel.client.core.stubs import MODELS
from carousel.client.wires.blocking import GrpcWire


def _interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("turn", ["generate", "predict"])
def test_an_interrupted_turn_is_given_up(address: str, service: FakeService, turn: str) -> None:
    """Ctrl-C comes in the pause before a retry: the turn no longer counts, although its error still refers to it."""
    with Client(address, sleep=_interrupt) as client, client.session() as session:
        asks: dict[str, Callable[[], Any]] = {
            "generate": lambda: session.generate("a"),
            "predict": lambda: session.predictor(),
        }
        service.mishaps = [Mishap()]
        stream = asks[turn]()
        with pytest.raises(KeyboardInterrupt) as caught:
            next(stream) if isinstance(stream, Stream) else stream("a")
        assert session.position is None
        assert session.get().position == session.position == 0
        assert caught.tb is not None


def test_an_interrupted_rewind_is_given_up(address: str, service: FakeService) -> None:
    """A rewind behaves like a turn: it is unknown whether it was applied."""
    with Client(address, sleep=_interrupt) as client, client.session() as session:
        service.mishaps = [Mishap()]
        with pytest.raises(KeyboardInterrupt) as caught:
            session.rewind(position=0)
        assert session.position is None
        assert session.get().position == session.position == 0
        assert caught.tb is not None


class _Broken:
    """A call whose first message fails, or that ends without one."""

    is_open = True

    def __init__(self, requests: Iterator[Any], error: BaseException | None) -> None:
        self.requests = requests
        self.error = error
        self.is_cancelled = False
        self.end: Any = None  # what it calls when it ends

    def add_callback(self, end: Any) -> bool:
        self.end = end
        return self.is_open

    def __next__(self) -> Any:
        raise StopIteration if self.error is None else self.error

    def cancel(self) -> None:
        self.is_cancelled = True


class _Refused(grpc.RpcError):  # type: ignore[misc]
    """A failed call in the form of grpc."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return "no"

    def trailing_metadata(self) -> None:
        return None

    def cancelled(self) -> bool:
        return False


def _ask_on(error: BaseException | None) -> tuple[Any, _Broken]:
    """Returns a line, and the call under it that will break."""
    calls: list[_Broken] = []

    def start(requests: Iterator[Any], **arguments: Any) -> _Broken:
        calls.append(_Broken(requests, error))
        return calls[-1]

    call: Call[Any] = Call(lambda channel: SimpleNamespace(Ask=start), "Ask", None, lambda answer: answer)
    line = GrpcWire(Connection("here:1"), stubs=[call.stub]).line(call, {})
    return line, calls[0]


@pytest.mark.parametrize("error", [None, _Refused()])
def test_a_line_that_fails_is_ended(error: grpc.RpcError | None) -> None:
    """The thread that reads the requests ends, and the call is cancelled: no thread stays."""
    line, call = _ask_on(error)
    with pytest.raises(ServerError):
        line.exchange("question")
    assert list(call.requests) == ["question"]
    assert call.is_cancelled


@pytest.mark.parametrize("is_open", [True, False])
def test_a_call_that_ends_unasked_leaves_no_thread(monkeypatch: pytest.MonkeyPatch, is_open: bool) -> None:
    """No request is made on the line, and the call may have ended earlier: the thread that reads requests ends."""
    monkeypatch.setattr(_Broken, "is_open", is_open)
    line, call = _ask_on(None)
    if is_open:
        call.end()
    assert line._requests.get_nowait() is None


def _readers() -> set[threading.Thread]:
    """Returns the library's threads that read requests."""
    frames = sys._current_frames()
    running = [thread for thread in threading.enumerate() if thread.ident in frames]
    return {
        thread
        for thread in running
        if any(one.name == "consume_request_iterator" for one in traceback.extract_stack(frames[thread.ident or 0]))
    }


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_predictor_that_is_left_alone_leaves_no_thread(address: str, is_closed: bool) -> None:
    """The predictor is dropped, or still exists when its client is closed."""
    before = _readers()
    with Client(address) as client:
        predictors = [client.predictor() for _ in range(3)]
        for predict in predictors:
            predict("a")
        readers = _readers() - before
        assert len(readers) == 3
        if not is_closed:
            del predict
            predictors.clear()
            gc.collect()
            _join(readers)
    _join(readers)


def _join(threads: set[threading.Thread]) -> None:
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_an_interrupted_question_is_not_left_on_its_line() -> None:
    """Its call is cancelled at once; the line's end ends the reading of requests."""
    line, call = _ask_on(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        line.exchange("question")
    assert call.is_cancelled
    line.end(is_orderly=False)
    assert list(call.requests) == ["question"]


def test_a_call_that_another_thread_closes_before_it_starts_is_refused() -> None:
    """The close comes between the wire's check and the library's start: the error is the same, and other errors of the
    library stay visible."""

    def make(channel: Any) -> Any:
        models = MODELS(channel)

        def list_models(*request: Any, **arguments: Any) -> Any:
            wire.close()
            return models.ListModels(*request, **arguments)

        def get_model(*request: Any, **arguments: Any) -> Any:
            raise ValueError("odd")

        return SimpleNamespace(ListModels=list_models, GetModel=get_model)

    wire = GrpcWire(Connection("127.0.0.1:1"), stubs=[make])
    with pytest.raises(ValueError, match="odd"):
        wire.ask(calls.model("")._replace(stub=make), {})
    with pytest.raises(ServerError, match="the client is closed") as caught:
        wire.ask(calls.models()._replace(stub=make), {})
    assert caught.value.code == "CANCELLED"
