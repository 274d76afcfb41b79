"""A PredictMany stream that has no room for its items is relieved by closes, bad frames and its end."""

import asyncio
import contextlib

import grpc
import pytest
from tests.fakes import GatedModel
from tests.server.rpc.many_floods import long_item
from tests.server.rpc.served_world import SECONDS, Code, ask, end, open_sessions, position, serving, until
from tests.worlds import Plan

from carousel.v1 import language_model_pb2 as wire


async def test_a_frame_counts_for_what_of_it_is_not_answered() -> None:
    """Many full frames with one slow item each leave room for others."""
    model = GatedModel()
    async with serving(Plan(model), max_message_bytes=30_000) as served:
        await open_sessions(served, *"abcdef")
        async with contextlib.AsyncExitStack() as held:
            for name in "abcdef":
                await held.enter_async_context(served.world.access.hold("", name))
            stream = served.many()
            for tag, name in enumerate("abcdef"):
                await stream.send(ask(tag, 1, session_id=name), *[long_item(100 + n) for n in range(20)])
                await stream.receive(20)
            assert not stream.answers[0]
        await stream.receive(6)
        assert await stream.finish() is Code.OK


async def test_closes_of_a_frame_make_room_for_its_questions() -> None:
    """The closes make room although they stand behind the questions."""
    async with serving(max_waiting_per_stream=4) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):  # another caller has it
            stream = served.many()
            await stream.send(*[ask(tag, 1, session_id="a") for tag in range(4)])
            await until(lambda: served.manys and served.manys[-1].num_waiting == 4)
            await stream.send(ask(7, 1), ask(8, 1), end(0), end(1), end(2), end(3))
            await stream.receive(2)
            assert set(stream.answers) == {7, 8}
        assert await stream.finish() is Code.OK
        assert await position(served, "a") == 0


async def test_closes_of_later_frames_make_room_too() -> None:
    """The frames between may have a message's bytes in all."""
    async with serving(max_waiting_per_stream=4) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):
            stream = served.many()
            await stream.send(*[ask(tag, 1, session_id="a") for tag in range(4)])
            for number in range(30):
                await stream.send(ask(10 + number, number % 16))
            await stream.send(*[end(tag) for tag in range(4)])
            await stream.receive(30)
            assert sorted(stream.answers) == [10 + number for number in range(30)]
        assert await stream.finish() is Code.OK


async def test_a_close_seen_ahead_keeps_the_order_of_its_tag() -> None:
    """What came before the close is given up; what comes after it is a new sequence."""
    async with serving(max_waiting_per_stream=2) as served:
        await open_sessions(served, "a", "b")
        async with served.world.access.hold("", "a"):
            stream = served.many()
            await stream.send(*[ask(1, token, session_id="a") for token in (1, 2, 3, 4)])
            await stream.send(ask(2, 5), end(1), ask(1, 6, session_id="b"), ask(1, 7))
            await stream.receive(3)
        assert [one.position for one in stream.answers[1]] == [1, 2]
        assert [one.position for one in stream.answers[2]] == [1]
        assert await stream.finish() is Code.OK
        assert [await position(served, name) for name in "ab"] == [0, 2]


async def test_a_stalled_stream_is_not_read_for_ever() -> None:
    """The server stops reading at a message's bytes of questions for which there is no room."""
    async with serving(max_waiting_per_stream=2, max_message_bytes=50_000) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):
            stream = served.many()
            await stream.send(*[ask(tag, 1, session_id="a") for tag in range(2)])

            async def send() -> None:
                for _ in range(2000):
                    await stream.send(*[long_item(5)] * 20)

            sending = asyncio.create_task(send())
            await until(lambda: served.manys and served.manys[-1]._backlog.num_bytes >= 50_000)
            await asyncio.wait([sending], timeout=0.5)
            assert served.manys[-1]._backlog.num_bytes < 50_000 + 20_000
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            stream.call.cancel()
            await until(lambda: not served.num_calls)
        await served.until_idle()


async def test_a_bad_frame_ends_a_stalled_stream() -> None:
    """It ends such a stream as any other; earlier questions are given up, since they may never be answered."""
    async with serving(max_waiting_per_stream=2) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):
            raw = served.channel.stream_stream("/carousel.v1.LanguageModel/PredictMany")()
            good = [ask(tag, 1, session_id="a") for tag in range(6)]
            await raw.write(wire.PredictManyRequest(items=good).SerializeToString())
            await raw.write(wire.PredictManyRequest(items=good).SerializeToString() + b"\x0a\x05a")
            async with asyncio.timeout(SECONDS):
                assert await raw.code() is Code.INVALID_ARGUMENT
            await until(lambda: not served.num_calls)
        await served.until_idle()


@pytest.mark.parametrize("max_waiting", [1, 2])
async def test_the_end_of_a_stalled_stream_waits_for_all_that_was_asked(max_waiting: int) -> None:
    """This includes questions for which there is room only when no other waits any more."""
    async with serving(max_waiting_per_stream=max_waiting) as served:
        await open_sessions(served, "a")
        stream = served.many()
        async with served.world.access.hold("", "a"):
            await stream.send(*[ask(tag, 1, session_id="a") for tag in range(7)])
            await stream.send(*[ask(tag, 1) for tag in range(7, 9)])
            await stream.call.done_writing()
            await until(lambda: served.manys and served.manys[-1]._backlog)
        assert await stream.finish() is Code.OK
        assert sorted(stream.answers) == list(range(9))
        await served.until_idle()


@pytest.mark.parametrize("num_frames", [1, 3])
async def test_cancelling_a_stalled_stream_leaves_nothing(num_frames: int) -> None:
    async with serving(max_waiting_per_stream=2) as served:
        await open_sessions(served, "a")
        tasks = asyncio.all_tasks()
        async with served.world.access.hold("", "a"):
            stream = served.many(timeout=0.5)
            for _ in range(num_frames):
                await stream.send(*[ask(tag, 1, session_id="a") for tag in range(7)])
            await until(lambda: served.manys and served.manys[-1]._backlog)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream.call.read()
            assert error.value.code() is Code.DEADLINE_EXCEEDED
            await until(lambda: not served.num_calls)
        await served.until_idle()
        assert await position(served, "a") == 0
        await until(lambda: len(asyncio.all_tasks()) <= len(tasks))
