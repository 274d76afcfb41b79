"""A tag or a PredictMany stream that closes, breaks or fails is told so, and nothing of it is left."""

import asyncio
import contextlib
import itertools

import grpc
import pytest
import structlog
from google.rpc import code_pb2
from tests.bounds import make_bounds
from tests.fakes import GatedModel
from tests.server.rpc.served_world import SECONDS, Code, ask, end, open_sessions, position, serving, until
from tests.worlds import LIFETIMES, Clock, Plan

from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.v1 import language_model_pb2 as wire


async def test_closing_a_tag_frees_its_session_and_gives_up_what_is_not_answered() -> None:
    """The session is as it was before, and the tag may name another at once."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a", "b")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        await stream.ask(1, 2)
        assert served.num_slots == 1
        model.close()
        await stream.send(ask(1, 3), ask(1, 4), ask(1, 5))
        await model.until_held()
        await stream.send(end(1), ask(1, 6, session_id="b"))
        await until(lambda: len(served.world.access._order._locks) > 0)
        model.gate.set()
        await stream.receive(1)
        assert stream.answers[1][-1].position == 1
        assert await position(served, "a") == 2
        assert await stream.finish() is Code.OK
        assert stream.num_answers == 3
        await served.until_idle()


@pytest.mark.parametrize("num_before", [1, 2])
async def test_a_tag_is_closed_while_its_turn_runs(num_before: int) -> None:
    """This holds whether the session is held or about to be."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a")
        stream = served.many()
        for _ in range(num_before):
            await stream.ask(1, 1, session_id="a")
        model.close()
        await stream.send(ask(1, 2))
        await model.until_held()
        await stream.send(end(1), end(99))
        await until(lambda: "0 sequences" in repr(served.manys[-1]))
        model.gate.set()
        assert await stream.finish() is Code.OK
        assert stream.num_answers == num_before
        assert await position(served, "a") == num_before
        await served.until_idle()


async def test_a_closed_tag_carries_nothing_on() -> None:
    async with serving() as served:
        stream = served.many()
        first = await stream.ask(1, 3)
        assert (await stream.ask(1, 3)).position == 2
        await stream.send(end(1))
        assert await stream.ask(1, 3) == first
        assert await stream.finish() is Code.OK


async def test_the_end_of_the_stream_waits_for_the_answers() -> None:
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a", "b", "c")
        stream = served.many()
        model.close()
        await stream.send(*[ask(tag, token, session_id=name) for token in (1, 2, 3) for tag, name in enumerate("abc")])
        await stream.call.done_writing()
        await model.until_held()
        model.gate.set()
        assert await stream.finish() is Code.OK
        assert [[one.position for one in stream.answers[tag]] for tag in range(3)] == [[1, 2, 3]] * 3
        await served.until_idle()


async def test_a_stream_that_says_nothing_ends() -> None:
    async with serving() as served:
        stream = served.many()
        await stream.send()
        await stream.send(end(1), end(2))
        assert await stream.finish() is Code.OK
        assert stream.num_answers == 0


@pytest.mark.parametrize("num_before", [0, 1, 2])
async def test_cancelling_the_stream_gives_all_up(num_before: int) -> None:
    """No unanswered item is applied; slots, lanes and tasks are free."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, *"abcdef")
        stream = served.many()
        for number in range(num_before):
            await stream.send(*[ask(tag, number, session_id=name) for tag, name in enumerate("abcdef")])
            await stream.receive(6)
        tasks = asyncio.all_tasks()
        model.close()
        await stream.send(*[ask(tag, token, session_id=name) for token in (4, 5) for tag, name in enumerate("abcdef")])
        await model.until_held()
        stream.call.cancel()
        await until(lambda: served.manys and not served.manys[-1]._sequences)
        model.gate.set()
        await served.until_idle()
        assert [await position(served, name) for name in "abcdef"] == [num_before] * 6
        await until(lambda: len(asyncio.all_tasks()) <= len(tasks))
        assert served.world.value("requests_total", method="PredictMany", code="CANCELLED") == 1


async def test_the_end_of_many_sequences_holds_nobody_up() -> None:
    """They are written a few at a time, and nothing begins on any of them meanwhile."""
    plan = Plan(bounds=make_bounds(max_held_bytes=2**22), store=_roomy_memory)
    async with serving(plan) as served:
        names = [f"s{number}" for number in range(200)]
        await open_sessions(served, *names)
        stream = served.many()
        for _ in range(2):
            await stream.send(*[ask(tag, 1, session_id=name) for tag, name in enumerate(names)])
            await stream.receive(200)
        await stream.call.done_writing()
        left = {served.num_slots}
        async with asyncio.timeout(SECONDS):
            while served.num_slots:
                await asyncio.sleep(0)
                left.add(served.num_slots)
        steps = sorted(left)
        assert max(later - earlier for earlier, later in itertools.pairwise(steps)) <= 32
        await served.until_idle()


def _roomy_memory(clock: Clock) -> MemoryStore:
    return MemoryStore(Capacity(1000, 2**30, evicts=True), LIFETIMES, clock=clock)


async def test_a_frame_that_cannot_be_read_ends_the_stream() -> None:
    """What the stream held is free."""
    async with serving() as served:
        await open_sessions(served, "a")
        raw = served.channel.stream_stream(
            "/carousel.v1.LanguageModel/PredictMany", None, wire.PredictManyResponse.FromString
        )()
        for _ in range(2):
            await raw.write(wire.PredictManyRequest(items=[ask(1, 1, session_id="a")]).SerializeToString())
            await raw.read()
        assert served.num_slots == 1
        await raw.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await raw.read()
        assert error.value.code() is Code.INVALID_ARGUMENT
        await served.until_idle()


@pytest.mark.parametrize("num_items", [1, 2, 3, 60, 600])
async def test_a_stream_that_fails_while_it_is_written_to_is_told_why(num_items: int) -> None:
    """The status comes after the answers that were made. Beside an answer on its way, the first above all, none can be
    sent."""
    async with serving(max_sequences_per_stream=1) as served:
        items = [ask(tag) for tag in range(num_items)]
        frames = [wire.PredictManyRequest(items=items).SerializeToString(), b"", b"\xff\xff"]

        async def run() -> grpc.StatusCode:
            raw = served.channel.stream_stream("/carousel.v1.LanguageModel/PredictMany")(frames)
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in raw:
                    pass
            return await raw.code()

        async with asyncio.timeout(SECONDS):
            for _ in range(10):
                assert set(await asyncio.gather(*(run() for _ in range(4)))) == {Code.INVALID_ARGUMENT}
        await served.until_idle()


async def test_failed_items_are_counted_and_logged_as_calls_are() -> None:
    """The line has their session, hashed, and their request."""
    async with serving() as served:
        with structlog.testing.capture_logs() as lines:
            stream = served.many()
            await stream.ask(1, 1, session_id="nowhere", request_id="r1")
            assert await stream.finish() is Code.OK
            await served.until_idle()
        (item,) = [line for line in lines if line["event"] == "item"]
        (call,) = [line for line in lines if line["event"] == "call"]
        assert (item["code"], item["reason"], item["request_id"]) == ("NOT_FOUND", "SESSION_NOT_FOUND", "r1")
        assert len(item["session"]) == 16
        assert (call["code"], call["num_messages"]) == ("OK", 1)
        assert served.world.value("refused_items_total", method="PredictMany", code="NOT_FOUND") == 1
        assert served.world.value("refusals_total", reason="session_not_found") == 1


async def test_an_unexpected_error_of_an_item_keeps_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:

        async def fail(*_: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(served.world.sessions, "predict", fail)
        with structlog.testing.capture_logs() as lines:
            stream = served.many()
            status = await stream.ask(1, 1, session_id="a")
            assert (status.code, status.message) == (code_pb2.INTERNAL, "internal error")
            assert await stream.finish() is Code.OK
        assert any(line["event"] == "unexpected error" for line in lines)
