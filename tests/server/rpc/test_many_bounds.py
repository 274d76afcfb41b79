"""A PredictMany stream is bounded in memory, idle when nothing is to be done for it, and ends when the server does."""

import asyncio
import random
import time

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.fakes import GatedModel, ToyModel
from tests.server.rpc.served_world import (
    SECONDS,
    ask,
    end,
    open_sessions,
    position,
    reason,
    serving,
    until,
)
from tests.worlds import Plan

from carousel.bundle.layout import Array, StateBatch
from carousel.sessions import many
from carousel.sessions.requests import Prediction, Standing
from carousel.sessions.sequence import Question
from carousel.sessions.streams import StreamBounds
from carousel.v1 import language_model_pb2 as wire

Code = grpc.StatusCode
ANN, BOB = (("x-owner", "ann"),), (("x-owner", "bob"),)


async def test_a_client_that_never_reads_is_not_read_from() -> None:
    """Beyond `max_waiting_per_stream` requests, or a message's bytes of them, the server takes no more."""
    async with serving(max_waiting_per_stream=10) as served:
        stream = served.many()
        frame = [ask(1, 1) for _ in range(4)]

        async def send() -> None:
            while True:
                await stream.send(*frame)
                assert not served.manys or served.manys[-1].num_waiting <= 10

        sending = asyncio.create_task(send())
        assert await asyncio.wait([sending], timeout=1.5) == (set(), {sending})
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await served.until_idle()


async def test_a_frame_of_very_many_items_is_taken_little_by_little() -> None:
    """However many fit into a message."""
    async with serving(max_waiting_per_stream=100) as served:
        await open_sessions(served, "a")
        stream = served.many()
        sending = asyncio.create_task(stream.send(*[ask(1, session_id="a") for _ in range(5000)]))
        most = 0
        while stream.num_answers < 5000:
            await stream.receive(1)
            most = max(most, served.manys[-1].num_waiting)
        await sending
        assert most <= 100
        assert await stream.finish() is Code.OK


async def test_requests_that_wait_are_bounded_in_bytes() -> None:
    """Long ones fill a stream sooner than short ones."""
    model = GatedModel()
    async with serving(Plan(model), max_message_bytes=100_000) as served:
        stream = served.many()
        model.close()
        long = wire.PredictManyRequest.Item(tag=1)
        long.request.input.tokens.ids.extend([1] * 900)

        async def send() -> None:
            for _ in range(12):
                await stream.send(*[long] * 20)

        sending = asyncio.create_task(send())
        await model.until_held()
        num_fitting = -(-100_000 // (long.ByteSize() + 3))
        await until(lambda: served.manys[-1].num_waiting >= num_fitting)
        await asyncio.wait([sending], timeout=0.5)
        assert served.manys[-1].num_waiting == num_fitting
        model.gate.set()
        await stream.receive(240)
        await sending
        assert await stream.finish() is Code.OK


async def test_answers_come_in_messages_that_clients_accept() -> None:
    """A gRPC client takes 4 MiB unless told otherwise. An answer that is larger by itself goes alone."""
    async with serving() as served:
        stream = served.many()
        await stream.ask(1, 1)
        await until(lambda: not served.manys[-1].num_waiting)
        many, question = served.manys[-1], Question(wire.PredictRequest(), 0, 0)
        for number, num_bytes in enumerate([10] * 3000 + [10_000] * 1000 + [2**21, 10, 2**21]):
            many.num_waiting += 1
            many.answer(number, question, Prediction((), (), Standing(0, 0, b"x" * num_bytes)))
        await stream.receive(4003)
        assert max(frame.ByteSize() for frame in stream.frames if len(frame.items) > 1) < 2**20 + 2**16
        assert max(len(frame.items) for frame in stream.frames) <= 1024
        assert await stream.finish() is Code.OK


# Idle or not, and the end.


async def test_a_stream_whose_items_are_worked_on_is_not_idle() -> None:
    """Although it also waits for its client's next frame, it gives way to nobody; one that has nothing to do does."""
    model = GatedModel()
    async with serving(Plan(model), owner="x-owner", streams=StreamBounds(1)) as served:
        stream = served.many(metadata=ANN)
        await stream.ask(1, 1)
        model.close()
        await stream.send(ask(1, 2))
        await model.until_held()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await served.model.Tokenize(wire.TokenizeRequest(text="a"), metadata=BOB)
        assert error.value.code() is Code.RESOURCE_EXHAUSTED
        model.gate.set()
        await stream.receive(1)
        await until(lambda: all(call.is_waiting for call in served.calls._open.values()))
        await served.model.Tokenize(wire.TokenizeRequest(text="a"), metadata=BOB)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stream.call.read()
        assert error.value.code() is Code.RESOURCE_EXHAUSTED
        await served.until_idle()


async def test_a_drain_answers_what_was_begun_and_refuses_the_rest() -> None:
    """Item by item; then the stream ends with UNAVAILABLE, and the server has stopped in time."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, *"abcd")
        stream = served.many()
        for token in (1, 2):
            await stream.send(*[ask(tag, token, session_id=name) for tag, name in enumerate("abcd")])
            await stream.receive(4)
        model.close()
        await stream.send(*[ask(tag, 3) for tag in range(4)], *[ask(tag, 4) for tag in range(4)])
        await model.until_held()
        async with asyncio.timeout(SECONDS):
            draining = asyncio.create_task(served.world.engine.drain(5))
            await asyncio.sleep(0)
            model.gate.set()
            await draining
            started = time.monotonic()
            finishing = asyncio.create_task(served.calls.finish(5))
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream.receive(1000)
            assert time.monotonic() < started + 4
            await finishing
        assert error.value.code() is Code.UNAVAILABLE
        for tag in range(4):
            assert stream.answers[tag][2].position == 3
            assert reason(stream.answers[tag][3]) == "SHUTTING_DOWN"
        await served.world.residents.leave_all()
        assert served.num_slots == 0


async def test_a_drain_past_its_deadline_ends_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told, and their sessions are unchanged."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a")
        stream = served.many()
        for token in (1, 2):
            await stream.ask(1, token, session_id="a")
        model.close()
        await stream.send(ask(1, 3))
        await model.until_held()
        await served.world.engine.drain(0.05)
        model.gate.set()
        await stream.receive(1)
        await served.calls.finish(1)
        await served.world.residents.leave_all()
        last = stream.answers[1][2]
        is_applied = isinstance(last, wire.PredictResponse)
        assert (await served.world.hold("a", "")).row.position == (3 if is_applied else 2)


class FailingModel(ToyModel):
    is_failing = False

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        if self.is_failing:
            raise RuntimeError("no")
        return super().core(ids_BT, lengths_B, state)


async def test_a_model_that_fails_fails_items_and_nothing_else() -> None:
    model = FailingModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a", "b")
        stream = served.many()
        for token in (1, 2):
            await stream.ask(1, token, session_id="a")
        await stream.ask(2, 1, session_id="b")
        model.is_failing = True
        assert [reason(await stream.ask(tag, 3)) for tag in (1, 2)] == ["MODEL_FAILED"] * 2
        model.is_failing = False
        assert [(await stream.ask(tag, 3)).position for tag in (1, 2)] == [3, 2]
        assert await stream.finish() is Code.OK
        await served.until_idle()


async def test_a_row_that_is_not_a_number_fails_alone() -> None:
    model = ToyModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, *"abc")
        stream = served.many()
        for token in (1, 2):
            await stream.send(*[ask(tag, token, session_id=name) for tag, name in enumerate("abc")])
            await stream.receive(3)
        model.poison_id = 5
        with np.errstate(invalid="ignore"):
            await stream.send(ask(0, 4), ask(1, 5), ask(2, 4))
            await stream.receive(3)
        assert [stream.answers[tag][2].position for tag in (0, 2)] == [3, 3]
        assert reason(stream.answers[1][2]) == "MODEL_FAILED"
        assert (await stream.ask(1, 6, expected_position=2)).position == 3
        assert await stream.finish() is Code.OK


async def test_many_sequences_of_many_streams() -> None:
    """A few hundred, opened, closed and cut off at random, leave nothing behind."""
    dice = random.Random(3)
    async with serving() as served:
        await open_sessions(served, *[f"s{number}" for number in range(60)])
        told: dict[str, int] = {}

        async def run(number: int) -> None:
            for _ in range(3):
                stream = served.many()
                for _ in range(4):
                    names = [f"s{number * 10 + one}" for one in dice.sample(range(10), 8)]
                    tags = [int(name[1:]) for name in names]
                    items = [
                        ask(tag, dice.randrange(16), session_id=name) for tag, name in zip(tags, names, strict=True)
                    ]
                    await stream.send(*items)
                    await stream.receive(8)
                    for name, tag in zip(names, tags, strict=True):
                        told[name] = stream.answers[tag][-1].position
                    await stream.send(*[end(tag) for tag in dice.sample(tags, 3)])
                if dice.random() < 0.5:
                    stream.call.cancel()
                else:
                    assert await stream.finish() is Code.OK

        await asyncio.gather(*(run(number) for number in range(6)))
        await served.until_idle()
        assert {name: await position(served, name) for name in told} == told
        assert sum(told.values()) == 6 * 3 * 4 * 8


async def test_sequences_of_all_streams_are_bounded_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that a session was refused for. Who has less than his share gets his own beside who has more; what is
    closed, or ends with its stream, is given back."""
    monkeypatch.setattr(many, "_MAX_SEQUENCES", 6)
    async with serving(owner="x-owner") as served:
        streams = [served.many(metadata=ANN) for _ in range(2)]
        for stream in streams:
            for tag in range(3):
                assert reason(await stream.ask(tag, 1, session_id="none")) == "SESSION_NOT_FOUND"
        assert limit_of(await streams[0].ask(9, 1)) == "max_sequences"
        await streams[1].ask(0, 1)  # an open one goes on
        other = served.many(metadata=BOB)
        for tag in range(3):
            assert (await other.ask(tag, 1)).position == 1
        assert limit_of(await other.ask(9, 1)) == "max_sequences"
        everybody = served.manys[0]._open_sequences
        assert (everybody.used("ann"), everybody.used("bob")) == (6, 3)
        assert await streams[1].finish() is Code.OK
        await streams[0].send(end(0))
        await until(lambda: everybody.used("ann") == 2)
        assert (await other.ask(9, 1)).position == 1
        for stream in (streams[0], other):
            assert await stream.finish() is Code.OK
        await until(lambda: everybody.total == 0)


def limit_of(status: status_pb2.Status) -> str:
    """That the status names."""
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return str(info.metadata["limit"])
