"""A line on scripted streams: when it stays, when it gets its own stream, and what it keeps."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from tests.server.client.wires.scripted_stream import Item, Script, right, settle

from carousel.client import ServerError
from carousel.client.core import calls
from carousel.client.core.options import CallOptions
from carousel.client.wires.shared_lines import SharedLine
from carousel.client.wires.shared_places import MAX_FRAME_BYTES, SharedPlaces
from carousel.v1 import language_model_pb2 as lm

QUESTION = lm.PredictRequest(input={"text": "a"})
LARGE = lm.PredictRequest(input={"text": "a" * MAX_FRAME_BYTES})


class Own:
    """A line with its own stream."""

    def __init__(self, options: CallOptions) -> None:
        self.options = options
        self.is_over = False

    async def exchange(self, request: Any) -> str:
        return "from its own"


class Stage:
    """The shared streams that were started, and the lines that got their own."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.own: list[Own] = []
        self.places = SharedPlaces(self._start, self._ask_limits, "here:1")

    def line(self, session_id: str = "", timeout_seconds: float | None = None) -> SharedLine:
        return SharedLine(self.places, self._go_alone, calls.predict(session_id), CallOptions(), timeout_seconds)

    async def ask(self, line: SharedLine, answer: Any = None) -> Any:
        """The first sequence of the last stream gets an answer."""
        asked = asyncio.ensure_future(line.exchange(QUESTION))
        await settle()
        self.scripts[-1].answer(answer or right(1))
        return await asyncio.wait_for(asked, 5)

    def _start(self, home: str) -> Script:
        self.scripts.append(Script())
        return self.scripts[-1]

    async def _ask_limits(self, home: str) -> Any:
        raise AssertionError("nobody has to know them here")

    def _go_alone(self, call: Any, options: CallOptions) -> Own:
        self.own.append(Own(options))
        return self.own[-1]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.places.close()


async def test_a_sequence_that_has_begun_stays_where_others_no_longer_go(stage: Stage) -> None:
    """Another line has found that a server does not support shared streams: this line's sequence is not started
    again."""
    line = stage.line()
    await stage.ask(line)
    stage.places.is_of_use = False
    assert (await stage.ask(line)).position == 1
    assert stage.own == []
    assert await stage.line().exchange(QUESTION) == "from its own"


async def test_a_line_that_goes_its_own_way_takes_the_rest_of_its_time(stage: Stage) -> None:
    """This includes the client's timeout, which started with the line."""
    assert await stage.line("mine", 20.0).exchange(LARGE) == "from its own"
    assert await stage.line("mine").exchange(LARGE) == "from its own"
    timed, endless = (one.options for one in stage.own)
    seconds = timed["timeout_seconds"]
    assert seconds is not None
    assert 10 < seconds < 20
    assert endless == {}


async def test_a_line_that_goes_its_own_way_leaves_its_seat(stage: Stage) -> None:
    """The shared stream no longer carries its sequence and keeps no place for it."""
    line = stage.line("mine")
    await stage.ask(line)
    assert await line.exchange(LARGE) == "from its own"
    await settle()
    assert [(item.tag, item.close) for item in stage.scripts[0].written[-1].items] == [(1, True)]
    assert "0 open" in repr(stage.places._homes)


async def test_what_the_server_itself_does_not_do_is_no_word_on_shared_streams(stage: Stage) -> None:
    """UNIMPLEMENTED with a reason of the server applies only to the request."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="WHATEVER", domain="carousel"))
    status = status_pb2.Status(code=grpc.StatusCode.UNIMPLEMENTED.value[0], message="no", details=[packed])
    with pytest.raises(ServerError, match="no") as caught:
        await stage.ask(stage.line(), Item(tag=1, status=status))
    assert (caught.value.code, caught.value.reason) == ("UNIMPLEMENTED", "WHATEVER")
    assert stage.places.is_of_use
    assert stage.own == []
