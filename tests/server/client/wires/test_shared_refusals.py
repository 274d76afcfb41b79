"""Shared streams that the server refuses or ends for load: their lines behave as single streams do."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.server.client.wires.scripted_stream import Script, right, settle
from tests.server.fake_service import FakeService

from carousel.client import AsyncClient, ServerError
from carousel.client.core import calls
from carousel.client.core.options import CallOptions
from carousel.client.wires.shared_lines import SharedLine
from carousel.client.wires.shared_places import SharedPlaces
from carousel.errors import Overloaded
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm

NO_ROOM = Overloaded("too many streams", limit="max_streams", retry_seconds=0.5)
QUESTION = lm.PredictRequest(input={"text": "a"})


async def _at_once(seconds: float) -> None:
    """A pause of no time."""


@pytest.mark.parametrize("num_askers", [1, 5])
@pytest.mark.parametrize("has_session", [False, True])
async def test_questions_wait_until_the_stream_has_room(
    address: str, service: FakeService, has_session: bool, num_askers: int
) -> None:
    """The call itself is refused twice; each request is retried on another stream."""
    service.refusals = [NO_ROOM] * 2
    async with AsyncClient(address, sleep=_at_once) as client:

        async def ask() -> int | None:
            if not has_session:
                return (await client.predict("a")).position
            session = client.open_session((await client.create_session()).session_id)
            return (await session.predict("a")).position

        assert await asyncio.gather(*(ask() for _ in range(num_askers))) == [1] * num_askers
    assert service.refusals == []


@pytest.fixture
def scripts() -> list[Script]:
    """Returns the streams that were started."""
    return []


@pytest.fixture
async def places(scripts: list[Script]) -> AsyncIterator[SharedPlaces]:
    def start(home: str) -> Script:
        scripts.append(Script())
        return scripts[-1]

    async def ask_limits(home: str) -> Any:
        raise AssertionError("nobody has to know them here")

    places = SharedPlaces(start, ask_limits, "here:1")
    yield places
    await places.close()


def _line(places: SharedPlaces) -> SharedLine:
    def go_alone(call: Any, options: CallOptions) -> Any:
        raise AssertionError("nobody goes his own way here")

    return SharedLine(places, go_alone, calls.predict("mine"), {}, None)


async def _ask(line: SharedLine, scripts: list[Script]) -> Any:
    """The first sequence of the last stream makes a request."""
    asked = asyncio.ensure_future(line.exchange(QUESTION))
    await settle()
    scripts[-1].answer(right(1))
    return await asked


async def test_a_line_does_not_stay_on_a_stream_that_is_closed_for_load(
    places: SharedPlaces, scripts: list[Script]
) -> None:
    """Without an open request, the line has ended, so that the next attempt starts on another stream."""
    line = _line(places)
    await _ask(line, scripts)
    scripts[0].answers.put_nowait(_refusal())
    await settle()
    with pytest.raises(ServerError, match="too many streams"):
        await line.exchange(QUESTION)
    assert line.is_over
    seat = places.assign_seat("mine")
    scripts[-1].answers.put_nowait(_refusal())
    await settle()
    assert seat.stream.failure is not None
    assert not seat.stream.is_cut  # by what was too large: the server says what it was
    places.leave_seat(seat)
    assert (await _ask(_line(places), scripts)).position == 1
    assert len(scripts) == 3


def _refusal() -> grpc.RpcError:
    """A call that the server has refused, in the form of grpc.aio."""
    status = to_status(NO_ROOM)
    trailer = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailer, status.message)
