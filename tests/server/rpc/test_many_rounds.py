"""Owners share the rounds of the event loop: a flood of items on PredictMany streams keeps nobody else waiting."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from tests.bounds import make_bounds
from tests.server.rpc.many_floods import FRAME, MAX_A_ROUND, OpenGate, flood
from tests.server.rpc.served_world import ANN, BOB, Code, ask, end, serving, until
from tests.worlds import Plan

from carousel.rpc import frames
from carousel.rpc.predict_messages import ManyMessages
from carousel.sessions.requests import Prediction, Standing
from carousel.sessions.sequence import Question
from carousel.v1 import language_model_pb2 as wire


@contextlib.asynccontextmanager
async def counted_rounds() -> AsyncIterator[tuple[collections.Counter[int], Callable[[], None]]]:
    """Counts the work of each round of the event loop. Yields the counts and a function to call for each piece of
    work."""
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


async def test_plain_items_of_many_streams_are_taken_a_few_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight streams have no more in a round than one."""
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
    """Refused items cost more, even where a tag has very many."""
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
    """An item that is refused at once costs more than one that is taken."""
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
    """Ten fields cost what a plain item does, and a frame of nothing else is read in pieces like any other."""
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
    """Each of its frames waits for a few rounds, and not for all that came before it."""
    async with serving(owner="x-owner") as served:
        items = [ask(number % 40, 1, model="other") for number in range(FRAME)]

        def num_refused() -> float:
            return served.world.value("refused_items_total", method="PredictMany", code="NOT_FOUND")

        stream = served.many(metadata=BOB)
        for _ in range(2):
            await stream.ask(1, 2)
        # Steps run in the loop, since a thread would wait for Python's lock and not for the gate.
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
    """A bounded number a second have their own line and the others share one; each is counted."""
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


async def test_frames_that_come_are_charged_for_what_is_in_them() -> None:
    """Items, closes, bytes and expected answers are charged, and the frame itself, since one without items is work
    too."""
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
    """Each search costs a multiple of a turn; refused ones, and requests without one, do not."""
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
    """They are charged for all their items and all their bytes."""
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
