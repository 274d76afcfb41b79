"""Which stream a sequence uses, what streams may carry, and that nothing stays open."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from carousel.client.core.errors import ServerUnreachable
from carousel.client.core.spread import Spread
from carousel.client.wires.shared_places import FEW, MAX_FRAME_BYTES, Bounds, SharedPlaces
from carousel.v1 import language_model_pb2 as lm


class Quiet:
    """A call on which nothing happens until it is ended."""

    def __init__(self) -> None:
        self.ending: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        return await asyncio.shield(self.ending)

    async def write(self, frame: Any) -> None:
        """Writes nowhere."""

    async def done_writing(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        if not self.ending.done():
            self.ending.set_result(grpc.aio.EOF)

    def fail(self, code: grpc.StatusCode) -> None:
        self.ending.set_exception(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone"))


class Server:
    """The server that places start streams on and ask for limits."""

    def __init__(self) -> None:
        self.calls: list[Quiet] = []
        self.names: list[str] = []  # the names under which its limits were asked for
        self.limits: Any = lm.Limits(max_message_bytes=5_000, max_sequences_per_stream=2)
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def start(self, name: str) -> Quiet:
        self.calls.append(Quiet())
        return self.calls[-1]

    async def ask_limits(self, name: str) -> Any:
        self.names.append(name)
        await self.may_answer.wait()
        if isinstance(self.limits, BaseException):
            raise self.limits
        return self.limits


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def places(server: Server) -> AsyncIterator[SharedPlaces]:
    places = SharedPlaces(server.start, server.ask_limits, "here:1")
    yield places
    await places.close()


async def test_few_sequences_share_one_stream(places: SharedPlaces) -> None:
    """With more sequences, both streams have equal numbers; a sequence that ends makes room on its stream."""
    seats = [places.assign_seat("") for _ in range(3 * FEW)]
    streams = list(dict.fromkeys(seat.stream for seat in seats))
    assert [seat.stream for seat in seats[: 2 * FEW]] == [streams[0]] * FEW + [streams[1]] * FEW
    assert [stream.num_open for stream in streams] == [3 * FEW // 2] * 2
    for seat in seats:
        if seat.stream is streams[0]:
            places.leave_seat(seat)
    assert places.assign_seat("").stream is streams[0]


async def test_a_stream_without_room_is_passed_over(places: SharedPlaces, server: Server) -> None:
    """Another stream opens when none has room."""
    seats = [places.assign_seat("") for _ in range(FEW)]
    await places.learn(seats[0], None)
    later = [places.assign_seat("") for _ in range(4)]
    assert [one.stream.num_open for one in later] == [2] * 4
    assert len(server.calls) == 3
    places.leave_seat(later[3])
    assert places.assign_seat("").stream is later[3].stream


async def test_what_the_server_says_holds_for_all_streams(places: SharedPlaces, server: Server) -> None:
    """This applies to open streams and to later ones; the request carries the name for balancers."""
    seats = [places.assign_seat("") for _ in range(4)]
    await places.learn(seats[0], None)
    assert places.bounds == Bounds(5_000, 5_000, 2)
    assert [seat.stream.max_frame_bytes for seat in seats] == [5_000] * 4
    another = places.assign_seat("")
    assert (another.stream in [seat.stream for seat in seats], another.stream.max_frame_bytes) == (False, 5_000)
    assert server.names == [seats[0].place.name]


async def test_a_question_that_has_been_answered_is_not_put_again(places: SharedPlaces, server: Server) -> None:
    """Many callers may ask at once, and later callers may have older seats."""
    seats = [places.assign_seat("") for _ in range(9)]
    server.may_answer.clear()
    learning = [asyncio.ensure_future(places.learn(seat, None)) for seat in seats[:-1]]
    await asyncio.sleep(0)
    server.may_answer.set()
    await asyncio.wait_for(asyncio.gather(*learning), 5)
    await places.learn(seats[-1], None)
    assert len(server.names) == 1
    await places.learn(places.assign_seat(""), None)
    assert len(server.names) == 2


@pytest.mark.parametrize("limits", [lm.Limits(), ServerUnreachable("here:1", "gone")], ids=["silent", "away"])
async def test_a_server_that_does_not_say_has_no_bounds(places: SharedPlaces, server: Server, limits: Any) -> None:
    """Nothing is guessed."""
    server.limits = limits
    await places.learn(places.assign_seat(""), None)
    assert places.bounds == Bounds(MAX_FRAME_BYTES, None, None)


async def test_a_task_that_was_cancelled_is_no_answer(places: SharedPlaces, server: Server) -> None:
    """The next caller asks again."""
    server.may_answer.clear()
    seat = places.assign_seat("")
    for _ in range(2):
        learning = asyncio.ensure_future(places.learn(seat, None))
        await asyncio.sleep(0)
        (task,) = [task for task in asyncio.all_tasks() if "_learn" in repr(task)]
        task.cancel()
        await asyncio.wait_for(learning, 5)
    server.may_answer.set()
    await places.learn(seat, None)
    assert places.bounds.max_sequences == 2


@pytest.mark.parametrize(
    ("code", "is_known"), [(grpc.StatusCode.UNAVAILABLE, False), (grpc.StatusCode.RESOURCE_EXHAUSTED, True)]
)
async def test_a_stream_that_was_cut_forgets_nothing(
    places: SharedPlaces, server: Server, code: grpc.StatusCode, is_known: bool
) -> None:
    """A broken stream may have belonged to another server."""
    seat = places.assign_seat("mine")
    await places.learn(seat, None)
    server.calls[0].fail(code)
    await asyncio.wait(seat.stream._tasks)
    await asyncio.sleep(0)
    assert seat.stream.failure is not None
    places.leave_seat(seat)
    places.assign_seat("mine")
    assert (places.bounds.max_sequences is not None) == is_known


async def test_streams_that_have_broken_are_forgotten(places: SharedPlaces, server: Server) -> None:
    """This holds for any number of them."""
    for _ in range(5):
        seat = places.assign_seat("mine")
        server.calls[-1].fail(grpc.StatusCode.UNAVAILABLE)
        await asyncio.wait(seat.stream._tasks)
        await asyncio.sleep(0)
        places.leave_seat(seat)
    seat = places.assign_seat("mine")
    assert len(server.calls) == 6
    assert places._streams == {seat.stream}


async def test_several_connections_are_all_used(server: Server) -> None:
    """As many sequences as one stream would have go over all connections: each has a stream whose name leads there."""
    spread, started = Spread(4), list[str]()

    def start(name: str) -> Quiet:
        started.append(name)
        return server.start(name)

    places = SharedPlaces(start, server.ask_limits, "here:1", spread)
    seats = [places.assign_seat(f"session-{number}") for number in range(FEW)]
    assert sorted(map(spread.choose, started)) == [0, 1, 2, 3]
    assert {seat.stream.num_open for seat in seats} == {FEW // 4}
    assert places.home("session-0") in started
    await places.close()


async def test_closing_leaves_no_task(server: Server) -> None:
    """This also holds while the server is asked."""
    before = asyncio.all_tasks()
    places = SharedPlaces(server.start, server.ask_limits, "here:1")
    server.may_answer.clear()
    learning = asyncio.ensure_future(places.learn(places.assign_seat("mine"), None))
    await asyncio.sleep(0)
    await places.close()
    await asyncio.wait_for(learning, 5)
    assert asyncio.all_tasks() == before
