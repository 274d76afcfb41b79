"""What a PredictMany client does, hostile or unlucky, costs others little, and closes always relieve his own stream."""

import asyncio
import collections
import contextlib
import random
import types
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import structlog
from tests.bounds import make_bounds
from tests.fakes import GatedModel
from tests.server.rpc.served_world import (
    SECONDS,
    ManyStream,
    ServedWorld,
    ask,
    end,
    open_sessions,
    position,
    reason,
    serving,
    until,
)
from tests.worlds import Plan

from carousel.rpc import frames
from carousel.rpc.predict_messages import ManyMessages
from carousel.sessions.carried_room import CarriedRoom
from carousel.sessions.conversation import Conversation
from carousel.sessions.gate import Gate
from carousel.sessions.requests import Prediction, Standing
from carousel.sessions.sequence import Question
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

Code = grpc.StatusCode
ANN, BOB = (("x-owner", "ann"),), (("x-owner", "bob"),)
MAX_A_ROUND = 48  # plain items, or what costs as much: a round and a piece
FRAME = 600


# The event loop is shared by owners.


@contextlib.asynccontextmanager
async def counted_rounds() -> AsyncIterator[tuple[collections.Counter[int], Callable[[], None]]]:
    """How much was done in each round of the event loop, and what is to be called for it."""
    number, done = 0, collections.Counter[int]()

    async def run() -> None:
        nonlocal number
        while True:
            await asyncio.sleep(0)
            number += 1

    def note() -> None:
        done[number] += 1

    task = asyncio.create_task(run())
    try:
        yield done, note
    finally:
        task.cancel()


async def flood(stream: ManyStream, items: list[wire.PredictManyRequest.Item], num_frames: int) -> None:
    reading = asyncio.create_task(stream.receive(num_frames * len(items)))
    for _ in range(num_frames):
        await stream.send(*items)
    await reading


async def test_plain_items_of_many_streams_are_taken_a_few_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight streams no more than of one."""
    plan = Plan(bounds=make_bounds(max_held_bytes=2**22))
    async with serving(plan, owner="x-owner") as served, counted_rounds() as (done, note):
        advance = served.world.engine.advance

        def advance_and_note(*arguments: Any) -> None:
            note()
            advance(*arguments)

        streams = [served.many(metadata=ANN) for _ in range(8)]
        items = [ask(tag, 1) for tag in range(100)]
        for stream in streams:
            await flood(stream, items, 2)
        monkeypatch.setattr(served.world.engine, "advance", advance_and_note)
        done.clear()
        await asyncio.gather(*(flood(stream, items, 3) for stream in streams))
        assert sum(done.values()) == 2400
        assert max(done.values()) <= MAX_A_ROUND


async def test_refused_items_of_many_streams_are_taken_a_few_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost more, also where a tag has very many."""
    async with serving(owner="x-owner") as served, counted_rounds() as (done, note):
        refused = served.world.metrics.item_refused

        def refuse_and_note(*arguments: Any) -> None:
            note()
            refused(*arguments)

        monkeypatch.setattr(served.world.metrics, "item_refused", refuse_and_note)
        items = [ask(number % 3, 1, model="other") for number in range(FRAME)]
        await asyncio.gather(*(flood(served.many(metadata=ANN), items, 1) for _ in range(8)))
        assert sum(done.values()) == 8 * FRAME
        assert max(done.values()) <= MAX_A_ROUND / 3


async def test_items_of_too_many_tags_are_refused_a_few_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused at once costs more than what is taken."""
    async with serving(max_sequences_per_stream=1) as served, counted_rounds() as (done, note):
        refused = served.world.metrics.item_refused

        def refuse_and_note(*arguments: Any) -> None:
            note()
            refused(*arguments)

        monkeypatch.setattr(served.world.metrics, "item_refused", refuse_and_note)
        await asyncio.gather(*(flood(served.many(), [ask(tag, 1) for tag in range(FRAME)], 1) for _ in range(8)))
        assert sum(done.values()) == 8 * (FRAME - 1)
        assert max(done.values()) <= MAX_A_ROUND / 3


async def test_fields_of_later_versions_are_passed_over_a_few_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten cost what a plain item does, and a frame of nothing else is read in pieces as any other."""
    async with serving() as served, counted_rounds() as (done, note):
        read_item = frames.read_item

        def read_and_note(content: bytes, at: int) -> tuple[frames.Item | None, int]:
            item, end = read_item(content, at)
            for _ in range((end - at) // 2 if item is None else 0):
                note()
            return item, end

        monkeypatch.setattr(ManyMessages, "read_item", staticmethod(read_and_note))
        frame, stream = b"\x10\x01" * 5000, served.many()
        raw = [served.channel.stream_stream("/carousel.v1.LanguageModel/PredictMany")() for _ in range(4)]
        await asyncio.gather(*(one.write(frame) for one in raw))
        await until(lambda: sum(done.values()) == 4 * 5000)
        assert max(done.values()) <= 2 * 10 * MAX_A_ROUND  # two rounds may be counted as one
        assert (await stream.ask(1, 2)).position == 1
        for one in raw:
            await one.done_writing()
            assert await one.code() is Code.OK
        assert await stream.finish() is Code.OK


async def test_one_stream_has_its_answers_beside_a_flood_of_another_owner() -> None:
    """Each of its frames waits for a few rounds, not for all that is before it."""
    async with serving(owner="x-owner") as served:
        items = [ask(number % 40, 1, model="other") for number in range(FRAME)]

        def num_refused() -> float:
            return served.world.value("refused_items_total", method="PredictMany", code="NOT_FOUND")

        stream = served.many(metadata=BOB)
        for _ in range(2):
            await stream.ask(1, 2)
        # Steps run in the loop: a thread would wait for Python's lock, not for the gate.
        served.world.engine._place.max_rows = 2**10
        floods = [asyncio.create_task(flood(served.many(metadata=ANN), items, 20)) for _ in range(8)]
        await until(lambda: num_refused() > 500)
        before = num_refused()
        for number in range(20):
            assert (await stream.ask(1, 2)).position == number + 3
        assert num_refused() < before + 20 * 300
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
        assert await stream.finish() is Code.OK


async def test_refused_items_have_few_log_lines() -> None:
    """So many a second one by one, and one line for the others; each is counted."""
    async with serving() as served:
        with structlog.testing.capture_logs() as lines:
            stream = served.many()
            await flood(stream, [ask(1, 1, model="other") for _ in range(FRAME)], 2)
            assert await stream.finish() is Code.OK
            await served.until_idle()
        own = [line for line in lines if line["event"] == "item"]
        rest = [line["num_refused"] for line in lines if line["event"] == "items"]
        assert len(own) + sum(rest) == 2 * FRAME
        assert len(own) <= 10 * (1 + len(rest))
        assert served.world.value("refused_items_total", method="PredictMany", code="NOT_FOUND") == 2 * FRAME


# A stream that has no room is relieved by closes.


def long_item(tag: int) -> wire.PredictManyRequest.Item:
    item = wire.PredictManyRequest.Item(tag=tag)
    item.request.input.tokens.ids.extend([1] * 900)
    return item


async def test_a_frame_counts_for_what_of_it_is_not_answered() -> None:
    """One slow item in each of many full frames leaves room for the others."""
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
    """Although they come behind them."""
    async with serving(max_waiting_per_stream=4) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):  # somebody else has it
            stream = served.many()
            await stream.send(*[ask(tag, 1, session_id="a") for tag in range(4)])
            await until(lambda: served.manys and served.manys[-1].num_waiting == 4)
            await stream.send(ask(7, 1), ask(8, 1), end(0), end(1), end(2), end(3))
            await stream.receive(2)
            assert set(stream.answers) == {7, 8}
        assert await stream.finish() is Code.OK
        assert await position(served, "a") == 0


async def test_closes_of_later_frames_make_room_too() -> None:
    """As long as the frames between are no more than a message's bytes."""
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
    """What came before it is given up, what comes after it is a new sequence."""
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
    """Beyond a message's bytes of questions for which there is no room."""
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
    """As it ends one that is not; what was asked before is given up, for it may never be answered."""
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
    """Also of those for which there is room only when nothing waits any more."""
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


# What a stream may pile up.


async def test_sequences_that_close_count_until_they_have_closed() -> None:
    """Who opens and closes tags has no more of them than who leaves them open."""
    model = GatedModel()
    async with serving(Plan(model), max_sequences_per_stream=4) as served:
        names = [f"s{number}" for number in range(40)]
        await open_sessions(served, *names)
        stream = served.many()
        for tag in range(4):
            await stream.ask(tag, 1, session_id=names[tag])
            await stream.ask(tag, 1)
        model.close()
        await stream.send(*[ask(tag, 1) for tag in range(4)])
        await model.until_held()
        for tag in range(4, 40):  # the sequences before cannot close while their turns run
            await stream.send(end(tag - 4), ask(tag, 1, session_id=names[tag]))
        await asyncio.sleep(0)
        await until(lambda: served.manys[-1]._backlog)
        many = served.manys[-1]
        assert len(many._sequences) + len(many._closing) <= 5
        model.gate.set()
        assert await stream.finish() is Code.OK
        assert await position(served, names[39]) == 1
        await served.until_idle()


async def test_items_take_no_memory_before_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame has room for very many small ones: of those for which a stream has no room there are only the bytes."""
    decode, decoded = frames._decode, list[weakref.ref[Any]]()

    class Request:  # one to which there can be weak references
        def __init__(self, request: wire.PredictRequest) -> None:
            self._request = request

        def __getattr__(self, name: str) -> Any:
            return getattr(self._request, name)

    def decode_and_note(content: bytes) -> types.SimpleNamespace:
        item = decode(content)
        noted = types.SimpleNamespace(tag=item.tag, close=item.close, request=Request(item.request))
        decoded.append(weakref.ref(noted.request))
        return noted

    monkeypatch.setattr(frames, "_decode", decode_and_note)
    async with serving(max_waiting_per_stream=50) as served:
        await open_sessions(served, "a")
        async with served.world.access.hold("", "a"):
            stream = served.many()
            await stream.send(*[ask(1, session_id="a") for _ in range(3000)])
            await until(lambda: len(decoded) >= 3000)  # all were looked at, whether they are closes
            assert served.manys[-1].num_waiting == 50
            assert sum(one() is not None for one in decoded) <= 51
            stream.call.cancel()
        await served.until_idle()


async def test_the_room_of_what_has_closed_is_used_at_once() -> None:
    """Although nothing else happens on the stream by then."""
    async with serving(max_sequences_per_stream=2) as served:
        await open_sessions(served, *"abcd")
        stream = served.many()
        for token in (1, 2):
            await stream.send(*[ask(tag, token, session_id=name) for tag, name in enumerate("ab")])
            await stream.receive(2)
        may_close = asyncio.Event()
        for sequence in served.manys[-1]._sequences.values():
            _delay_close(sequence._talk, may_close)
        await stream.send(end(0), end(1), ask(2, 1, session_id="c"), ask(3, 1, session_id="d"))
        await stream.receive(1)
        await until(lambda: served.manys[-1].num_waiting == 0)
        may_close.set()
        await stream.receive(1)
        assert await stream.finish() is Code.OK
        assert stream.answers[2][0].position == stream.answers[3][0].position == 1


def _delay_close(talk: Conversation, until: asyncio.Event) -> None:
    close = talk.close

    async def close_late() -> None:
        await until.wait()
        await close()

    talk.close = close_late  # type: ignore[method-assign]


async def test_a_stream_whose_frame_waits_for_its_round_is_not_idle() -> None:
    """Or it would be closed for others although its client waits for an answer."""
    async with serving() as served:
        stream = served.many()
        await stream.ask(1, 1)
        (call,) = served.calls._open.values()
        await until(lambda: call.is_waiting)
        many, is_open = served.manys[-1], asyncio.Event()
        many._gate = gate = OpenGate()

        async def enter(owner: str, cost: float) -> None:
            await is_open.wait()

        gate.enter = enter  # type: ignore[method-assign]
        await stream.send(ask(1, 1))
        await until(lambda: many._backlog)
        assert not many.num_waiting
        assert not call.is_waiting
        is_open.set()
        await stream.receive(1)
        await until(lambda: call.is_waiting)
        await stream.send(end(1), end(2))
        await until(lambda: not many._sequences)
        await until(lambda: call.is_waiting)
        assert await stream.finish() is Code.OK


@pytest.mark.parametrize("name", ["x" * 150_000, "no name", "x" * 129])
async def test_what_cannot_be_the_name_of_a_session_is_not_kept(name: str) -> None:
    """It would be, for each tag, as long as the stream is open."""
    async with serving() as served:
        stream = served.many()
        assert reason(await stream.ask(1, 1, session_id=name)) == "SESSION_NOT_FOUND"
        (sequence,) = served.manys[-1]._sequences.values()
        assert sequence._talk._session_id == ""
        assert reason(await stream.ask(1, 1)) == "INVALID_REQUEST"  # it does not go on from a fresh sequence
        assert (await stream.ask(2, 1)).position == 1
        assert await stream.finish() is Code.OK
        single = served.model.Predict()
        await single.write(ask(0, 1, session_id=name).request)
        assert await single.code() is Code.NOT_FOUND


async def test_answers_that_are_expected_count_as_answers_that_wait() -> None:
    """Who asks for many candidates on many tags at once and does not read has no more than a message's bytes of them
    piled up, and little more."""
    plan = Plan(bounds=make_bounds(max_held_bytes=2**22))
    async with serving(plan, max_message_bytes=20_000, max_waiting_per_stream=5000) as served:
        stream = served.many()
        tags = range(300)
        await flood(stream, [ask(tag, 1) for tag in tags], 2)
        await until(lambda: not served.manys[-1].num_waiting)
        many, most = served.manys[-1], 0
        put = many._put

        def put_and_note(*arguments: Any) -> None:
            nonlocal most
            put(*arguments)
            most = max(most, many._num_unread_bytes)

        many._put = put_and_note  # type: ignore[method-assign,assignment]
        many.next_frame = _never  # type: ignore[method-assign]
        await until(lambda: not many._changed.is_set())
        many._changed.set()
        await stream.send(*[ask(tag, 1, k=16) for tag in tags])
        await until(lambda: most > 15_000)
        await asyncio.sleep(0.2)
        assert most < 25_000
        stream.call.cancel()
        await served.until_idle()


async def test_answers_that_are_longer_than_expected_wait_for_their_reader() -> None:
    """Sealed states come back with every answer."""
    async with serving(max_message_bytes=3000) as served:
        await open_sessions(served, "a")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        sealed = await served.life.ExportSession(sessions_pb2.ExportSessionRequest(session_id="a"))
        first = await stream.ask(2, 1, state=sealed.state)
        await until(lambda: not served.manys[-1].num_waiting)
        many = served.manys[-1]
        many.next_frame = _never  # type: ignore[method-assign]
        many._changed.set()
        await stream.send(*[ask(2, 1, k=1) for _ in range(40)])
        await until(lambda: many._num_unread_bytes > 2500)
        await asyncio.sleep(0.2)
        assert many._num_unread_bytes < 3000 + first.ByteSize() + 20
        stream.call.cancel()
        await served.until_idle()


class OpenGate(Gate):
    """Notes what is charged, and lets all in."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: list[float] = []

    async def enter(self, owner: str, cost: float) -> None:
        self.charged.append(cost)

    def charge(self, owner: str, cost: float) -> None:
        self.charged.append(cost)


async def test_frames_that_come_are_charged_for_what_is_in_them() -> None:
    """Items, closes, bytes, answers that are to be made; and for itself, for a frame without items is work too."""
    async with serving() as served:
        stream = served.many()
        await stream.ask(1, 1)
        await until(lambda: not served.manys[-1].num_waiting)
        many, costs = served.manys[-1], list[float]()
        many._gate = gate = OpenGate()
        long = ask(1, 1)
        long.request.word_prefix = "x" * 150_000
        for items in ([], [end(9)], [end(9)] * 100, [long], [ask(1, 1, k=10)], [ask(1, 1, k=256)]):
            gate.charged.clear()
            await many.receive(wire.PredictManyRequest(items=items).SerializeToString())
            costs.append(sum(gate.charged))
        answer = (256 * 20 + 32 - 256) / 1400  # is made of candidates, which takes four times as long as all else
        expected = [4, 4 + 1, 4 + 100, 4 + 1 + 150_000 / 2**14, 4 + 1, 4 + 1 + answer]
        assert costs == pytest.approx(expected, abs=0.2)
        await stream.receive(3)
        assert await stream.finish() is Code.OK


async def test_searches_for_words_are_charged_by_what_they_look_for() -> None:
    """Each is let in as many times what a turn costs; what is refused or asks for none is not."""
    async with serving() as served:
        stream = served.many()
        await stream.ask(1, 1)
        await until(lambda: not served.manys[-1].num_waiting)
        served.manys[-1]._gate = gate = OpenGate()
        costs = list[float]()
        words: dict[str, Any] = {"word_prefix": ""}
        for fields in ({}, *(words | {"num_words": number} for number in (0, 99, 5, 32))):
            gate.charged.clear()
            await stream.ask(2, **fields)
            costs.append(max(gate.charged))
        assert costs[:3] == [20.0] * 3
        assert costs[3:] == pytest.approx([20 + 20 + 10, 20 + 20 + 64], abs=0.1)
        assert await stream.finish() is Code.OK


async def test_frames_that_go_out_are_work_too() -> None:
    """For all their items and all their bytes."""
    async with serving() as served:
        stream = served.many()
        await stream.ask(1, 1)
        await until(lambda: not served.manys[-1].num_waiting)
        many = served.manys[-1]
        many._gate = gate = OpenGate()
        question, costs = Question(wire.PredictRequest(), 0, 0), list[float]()
        for count, size in ((1, 10), (1000, 10), (1, 900_000)):
            for _ in range(count):
                many.num_waiting += 1
                many.answer(1, question, Prediction((), (), Standing(0, 0, b"x" * size)))
            gate.charged.clear()
            await stream.receive(count)
            costs.append(sum(gate.charged))
        assert costs[0] > 1
        assert min(costs[1:]) > 40
        assert await stream.finish() is Code.OK


async def _never() -> None:
    await asyncio.Event().wait()


async def test_a_refused_state_leaves_what_was_carried() -> None:
    """The tag is where it was, not at the start."""
    async with serving() as served:
        stream = served.many()
        for _ in range(3):
            await stream.ask(1, 1)
        assert reason(await stream.ask(1, 1, state=b"no state")) == "STATE_REFUSED"
        assert (await stream.ask(1, 1)).position == 4
        assert await stream.finish() is Code.OK


# All at once.


def draw_item(dice: random.Random) -> wire.PredictManyRequest.Item:
    tag = dice.choice([0, 1, 2, 3, 4, 5, 6, 2**63, 2**64 - 1])
    if dice.random() < 0.25:
        return end(tag)
    fields: dict[str, Any] = {}
    if dice.random() < 0.5:
        fields["session_id"] = dice.choice(["a", "b", "c", "nowhere", "no name"])
    if dice.random() < 0.1:
        fields["request_id"] = f"r{dice.randrange(5)}"
    if dice.random() < 0.1:
        fields["expected_position"] = dice.randrange(5)
    if dice.random() < 0.1:
        fields["model"] = "other"
    if dice.random() < 0.05:
        fields["state"] = b"no state"
    item = ask(
        tag, dice.choice([1, 2, 99]) if dice.random() < 0.8 else None, k=dice.choice([0, 1, 16, 999, -1]), **fields
    )
    if dice.random() < 0.1:
        item.request.word_prefix = "a"
    if dice.random() < 0.1:
        item.request.input.tokens.ids.extend([3] * dice.randrange(300))
    return item


async def attack(served: ServedWorld, dice: random.Random) -> None:
    """A client who stops reading, cancels, lets time run out or sends what is no frame, at any moment."""
    metadata = dice.choice([ANN, BOB])
    raw = served.channel.stream_stream("/carousel.v1.LanguageModel/PredictMany")(
        metadata=metadata, timeout=dice.choice([None, 0.05, 5.0])
    )
    reading = asyncio.create_task(_read_all(raw)) if dice.random() < 0.7 else None
    ended = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError)
    with contextlib.suppress(*ended):
        async with asyncio.timeout(0.3):
            for _ in range(dice.randrange(30)):
                content = wire.PredictManyRequest(items=[draw_item(dice) for _ in range(dice.randrange(20))])
                cut = dice.randrange(10**6)
                await raw.write(content.SerializeToString()[: cut if cut < 500 else None])
                if dice.random() < 0.3:
                    await asyncio.sleep(dice.random() * 0.01)
            await raw.done_writing()
            if dice.random() < 0.5:
                await raw.code()
    raw.cancel()
    if reading is not None:
        await reading


class TasksLeft(Exception):
    """Which ones."""


async def _read_all(raw: Any) -> None:
    with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.CancelledError):
        while await raw.read() is not grpc.aio.EOF:
            pass


@pytest.mark.xfail(raises=TasksLeft, strict=False, reason="seen in three runs, and in none of 280 attacks since")
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_of_an_attack(seed: int) -> None:
    """No slot, no task, no room, no session that is taken; and nothing unexpected is logged."""
    dice = random.Random(seed)
    room = CarriedRoom(10_000, 1000, evicts=True)
    plan = Plan(carried_room=room, bounds=make_bounds(max_held_bytes=2000))
    limits: dict[str, Any] = {"max_waiting_per_stream": 6, "max_sequences_per_stream": 5, "max_message_bytes": 2000}
    with structlog.testing.capture_logs() as lines:
        async with serving(plan, owner="x-owner", **limits) as served:
            for owner in ("ann", "bob"):
                for name in "abc":
                    await served.world.open(name, owner)
            tasks = asyncio.all_tasks()
            for _ in range(6):
                await asyncio.gather(*(attack(served, dice) for _ in range(6)))
            await until(lambda: not served.num_calls)
            await served.until_idle()
            try:
                await until(lambda: len(asyncio.all_tasks()) <= len(tasks))
            except TimeoutError as error:
                raise TasksLeft([repr(one) for one in asyncio.all_tasks() - tasks]) from error
            assert "(0 of" in repr(room)
            assert "(0 of" in repr(served.world.carried)
            for many in served.manys:
                assert not many._sequences
                assert not many._closing
                assert many._num_bytes == many._num_expected_bytes == 0
            stream = served.many(metadata=ANN)
            for name in "abc":
                assert (await stream.ask(ord(name), 1, session_id=name)).position > 0
            assert await stream.finish() is Code.OK
            await served.until_idle()
    assert [line for line in lines if line["event"] == "unexpected error"] == []
