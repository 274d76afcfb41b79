"""How many of our files a message crosses on a live server, and how many of our functions it enters: a profiler sees.

    python -m bench.serving.crossings [--files]

The server runs in this process with a profiler on all its threads. One message at a time is sent, and each figure is
about what all messages of its kind have in common; what the server does by itself meanwhile is left out. A coroutine
that goes on after it waited counts as a function entered. Generated stubs are not counted. `--files` names the files on
stderr.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import uvloop
from bench.harness.reference_models import write_reference_bundle
from bench.harness.report import print_figure, print_machine

import carousel
from carousel import logs
from carousel.app import running
from carousel.settings import Settings
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

NUM_WARM, NUM_COUNTED = 200, 25
AT_MOST_FILES = {"predict": 12, "predict_many": 12, "generate": 13}
_NUM_GENERATED = 8
_SETTLING_SECONDS = 0.005  # after an answer, for what the server still does about it
_OURS = str(Path(carousel.__file__).parent) + "/"
_STUBS = _OURS + "v1/"

Entered = Counter[str]  # functions, by file
Ask = Callable[[], Awaitable[None]]  # a message, until it is answered


class Profiler:
    """Counts the functions of ours that any thread enters while it is on."""

    def __init__(self) -> None:
        self._entered = Entered()
        self._is_on = False
        self._background: set[asyncio.Task[Any]] = set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """On this thread and on those that are started meanwhile."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def leave_out(self, tasks: set[asyncio.Task[Any]]) -> None:
        """What they do is not of a message."""
        self._background = tasks

    async def watch(self, ask: Ask) -> Entered:
        """What one message entered."""
        self._entered, self._is_on = Entered(), True
        await ask()
        await asyncio.sleep(_SETTLING_SECONDS)
        self._is_on = False
        return self._entered

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_on and event == "call":
            path = frame.f_code.co_filename
            if path.startswith(_OURS) and not path.startswith(_STUBS) and not self._is_background():
                self._entered[path.removeprefix(_OURS)] += 1

    def _is_background(self) -> bool:
        try:
            return asyncio.current_task() in self._background
        except RuntimeError:  # a thread without a loop
            return False


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="name the files on stderr")
    parser.add_argument("--quick", action="store_true", help="no less of it: it takes seconds in any case")
    given = parser.parse_args(arguments)
    print_machine()
    logs.configure("error")
    with tempfile.TemporaryDirectory() as directory:
        crossings = count_crossings(write_reference_bundle("small", Path(directory)))
    for kind, entered in crossings.items():
        print_figure(f"crossings.{kind}.files", len(entered), "files", at_most=AT_MOST_FILES[kind])
        print_figure(f"crossings.{kind}.calls", entered.total(), "calls")
        if given.files:
            lines = (f"    {count:4} {path}" for path, count in sorted(entered.items()))
            print(f"{kind}:", *lines, sep="\n", file=sys.stderr)


def count_crossings(bundle: Path, num_warm: int = NUM_WARM) -> dict[str, Entered]:
    """What every message enters at least, by kind."""
    profiler = Profiler()
    with profiler.installed():
        return uvloop.run(_count(bundle, profiler, num_warm))


async def _count(bundle: Path, profiler: Profiler, num_warm: int) -> dict[str, Entered]:
    kinds = {"predict": _predicting, "predict_many": _predicting_many, "generate": _generating}
    settings = Settings(listen="127.0.0.1:0", http_listen="127.0.0.1:0")
    found = {}
    async with (
        running(bundle, settings) as server,
        grpc.aio.insecure_channel(server.grpc_address) as channel,
    ):
        profiler.leave_out(asyncio.all_tasks())
        for kind, opened in kinds.items():
            async with opened(channel) as ask:
                for _ in range(num_warm):
                    await ask()
                found[kind] = _in_common([await profiler.watch(ask) for _ in range(NUM_COUNTED)])
    return found


def _in_common(windows: list[Entered]) -> Entered:
    """The least of each; a file that one message did not enter is none."""
    common = windows[0]
    for entered in windows[1:]:
        common &= entered
    return common


@contextlib.asynccontextmanager
async def _predicting(channel: grpc.aio.Channel) -> AsyncIterator[Ask]:
    """A stream on a session."""
    requests = await _requests(channel)
    call = language_model_pb2_grpc.LanguageModelStub(channel).Predict()

    async def ask() -> None:
        await call.write(next(requests))
        assert (await call.read()).candidates

    yield ask
    await call.done_writing()


@contextlib.asynccontextmanager
async def _predicting_many(channel: grpc.aio.Channel) -> AsyncIterator[Ask]:
    """The same on a stream of many sequences, one of which talks."""
    requests = await _requests(channel)
    call = language_model_pb2_grpc.LanguageModelStub(channel).PredictMany()

    async def ask() -> None:
        item = wire.PredictManyRequest.Item(tag=1, request=next(requests))
        await call.write(wire.PredictManyRequest(items=[item]))
        (answer,) = (await call.read()).items
        assert answer.response.candidates

    yield ask
    await call.done_writing()


@contextlib.asynccontextmanager
async def _generating(channel: grpc.aio.Channel) -> AsyncIterator[Ask]:
    """A call for each few tokens, on a session."""
    stub = language_model_pb2_grpc.LanguageModelStub(channel)
    session_id = await _create_session(channel)
    number = 0

    async def ask() -> None:
        nonlocal number
        number += 1
        request = wire.GenerateRequest(
            session_id=session_id,
            request_id=f"request-{number}",
            input=_token(2 + number % 100),
            max_tokens=_NUM_GENERATED,
            sampling=wire.Sampling(temperature=0),
        )
        assert [response async for response in stub.Generate(request)][-1].HasField("finished")

    yield ask


async def _requests(channel: grpc.aio.Channel) -> Iterator[wire.PredictRequest]:
    """As our library makes them: the session named once, then request ids and expected positions."""
    session_id = await _create_session(channel)

    def make() -> Iterator[wire.PredictRequest]:
        yield wire.PredictRequest(session_id=session_id, input=_token(2), request_id="request-0")
        position = 1
        while True:
            request_id = f"request-{position}"
            yield wire.PredictRequest(
                input=_token(2 + position % 100), request_id=request_id, expected_position=position
            )
            position += 1

    return make()


async def _create_session(channel: grpc.aio.Channel) -> str:
    session = await sessions_pb2_grpc.SessionsStub(channel).CreateSession(sessions_pb2.CreateSessionRequest())
    return str(session.session_id)


def _token(index: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=[index]))


if __name__ == "__main__":
    main()
