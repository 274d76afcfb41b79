"""Many sequences on one stream answer as as many Predict streams: bit for bit, each in order, free of each other, and
nothing of them is left when the stream is over."""

import asyncio
import contextlib
import itertools
import random

import grpc
import pytest
import structlog
from google.rpc import code_pb2
from tests.bounds import make_bounds
from tests.fakes import GatedModel
from tests.server.rpc.served_world import (
    SECONDS,
    ServedWorld,
    ask,
    end,
    open_sessions,
    position,
    reason,
    serving,
    until,
)
from tests.worlds import LIFETIMES, Clock, Plan

from carousel.state.memory import MemoryStore
from carousel.state.store import Capacity
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2

Code = grpc.StatusCode
ANN, BOB = (("x-owner", "ann"),), (("x-owner", "bob"),)


async def predict(served: ServedWorld, requests: list[wire.PredictRequest]) -> list[wire.PredictResponse]:
    """On a stream of their own."""
    stream = served.model.Predict()
    answers = []
    for request in requests:
        await stream.write(request)
        answers.append(await stream.read())
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    return answers


def draw_requests(dice: random.Random, session: str) -> list[wire.PredictRequest]:
    requests = []
    for number in range(dice.randrange(5, 25)):
        request = ask(0, dice.randrange(16), k=dice.randrange(12)).request
        if dice.random() < 0.1:
            request.input.tokens.ids.extend(dice.choices(range(16), k=3))
        if dice.random() < 0.1:
            request.word_prefix = "a"
        if session and dice.random() < 0.5:
            request.request_id, request.expected_position = f"r{number}", 0
            request.ClearField("expected_position")
        requests.append(request)
    requests[0].session_id = session
    return requests


async def test_answers_are_those_of_streams_of_their_own() -> None:
    """Sessions and carried sequences, plain and other messages, mixed in frames of any size."""
    dice = random.Random(1)
    names = [f"s{number}" for number in range(12)] + ["", "", ""]
    scripts = [draw_requests(dice, name) for name in names]
    async with serving() as served:
        await open_sessions(served, *filter(None, names))
        stream = served.many()
        items = [ask(tag) for tag, script in enumerate(scripts) for _ in script]
        dice.shuffle(items)
        lines = [iter(script) for script in scripts]
        for item in items:
            item.request.CopyFrom(next(lines[item.tag]))
        while items:
            count = dice.randrange(1, 20)
            await stream.send(*items[:count])
            items = items[count:]
        assert await stream.finish() is Code.OK
        await served.until_idle()
        assert served.world.value("held_turns_total") > 30
    async with serving() as served:
        await open_sessions(served, *filter(None, names))
        for tag, script in enumerate(scripts):
            assert await predict(served, script) == stream.answers[tag]
        await served.until_idle()


async def test_tags_are_free_of_each_other() -> None:
    """One that waits for a long step keeps nobody's answer back; its own come in their order."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a", "b")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        await stream.ask(2, 1, session_id="b")
        async with served.world.access.hold("", "a"):  # somebody else has it
            await stream.send(*[ask(1, token) for token in (2, 3, 4)])
            for token in (5, 6, 7):
                await stream.ask(2, token)
            assert len(stream.answers[1]) == 1
        await stream.receive(3)
        assert [one.position for one in stream.answers[1]] == [1, 2, 3, 4]
        assert await stream.finish() is Code.OK


@pytest.mark.parametrize("first", [{"session_id": "a", "model": "other"}, {"session_id": "no id!"}])
async def test_a_tag_whose_session_was_refused_goes_on_on_no_other(first: dict[str, str]) -> None:
    """What follows without a name would be answered from a fresh sequence, which nobody has asked for."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        await stream.send(ask(1, 1, **first), ask(1, 2), ask(1, 3, model="toy"))
        await stream.receive(3)
        reasons = [reason(one) for one in stream.answers[1]]
        assert reasons[0] in ("MODEL_NOT_FOUND", "SESSION_NOT_FOUND")
        assert reasons[1:] == ["INVALID_REQUEST", "INVALID_REQUEST"]
        assert reason(await stream.ask(1, 2, **first)) == reasons[0]
        assert reason(await stream.ask(1, 2)) == "INVALID_REQUEST"
        assert (await stream.ask(1, 2, session_id="a")).position == 1
        assert (await stream.ask(1, 3)).position == 2
        await stream.ask(2, 1, **first)
        await stream.send(end(2))
        assert (await stream.ask(2, 1)).position == 1
        assert await stream.finish() is Code.OK
        assert await position(served, "a") == 2


async def test_a_tag_without_a_session_may_be_begun_again() -> None:
    """Nothing was named that could be forgotten."""
    async with serving() as served:
        stream = served.many()
        assert reason(await stream.ask(1, 1, model="other")) == "MODEL_NOT_FOUND"
        assert (await stream.ask(1, 1)).position == 1
        assert await stream.finish() is Code.OK


async def test_an_error_leaves_its_tag_and_the_stream() -> None:
    """What was wrong with one message is said of that one; the next goes on where the session stands."""
    async with serving() as served:
        await open_sessions(served, "a", "b")
        stream = served.many()
        await stream.ask(7, 1, session_id="b")
        assert reason(await stream.ask(1, 1, session_id="a", model="other")) == "MODEL_NOT_FOUND"
        assert (await stream.ask(1, 1, session_id="a", model="toy")).position == 1
        wrong = await stream.ask(1, 2, expected_position=9)
        assert (reason(wrong), wrong.code) == ("POSITION_MISMATCH", code_pb2.ABORTED)
        assert (await stream.ask(1, 2, expected_position=1)).position == 2
        assert reason(await stream.ask(1, 99)) == "INVALID_REQUEST"
        assert reason(await stream.ask(1, 3, k=1000)) == "INVALID_REQUEST"
        assert reason(await stream.ask(1, 3, request_id="not one")) == "INVALID_REQUEST"
        assert (await stream.ask(1, 3)).position == 3
        lost = await stream.ask(3, 1, session_id="nowhere")
        assert (reason(lost), lost.code) == ("SESSION_NOT_FOUND", code_pb2.NOT_FOUND)
        await open_sessions(served, "nowhere")
        assert (await stream.ask(3, 1)).position == 1  # it stays on the session that it named
        assert reason(await stream.ask(4, 1, request_id="r")) == "INVALID_REQUEST"  # without a session
        assert (await stream.ask(7, 2)).position == 2
        assert await stream.finish() is Code.OK
        await served.until_idle()


async def test_a_position_that_is_not_met_gives_the_session_back() -> None:
    """Whether it was held already, or would have been from this message on."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        assert reason(await stream.ask(1, 2, expected_position=5)) == "POSITION_MISMATCH"
        await stream.send(end(1))
        await served.world.operations.get("", "a")
        assert await stream.finish() is Code.OK
        assert served.num_slots == 0


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
    """Whether the session is held or about to be."""
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
    """Nothing of what was not answered is applied; slots, lanes and tasks are free."""
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
    """They are written a few at a time, and nothing is begun on any of them meanwhile."""
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


async def test_sealed_states_go_from_item_to_item() -> None:
    """A tag that brought one goes on from it."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        for token in (1, 2, 3):
            await stream.ask(1, token, session_id="a")
        sealed = await served.life.ExportSession(sessions_pb2.ExportSessionRequest(session_id="a"))
        first = await stream.ask(2, 4, state=sealed.state)
        second = await stream.ask(2, 5)
        assert (first.position, second.position) == (4, 5)
        assert b"" not in (first.state, second.state)
        assert list(second.candidates) == list((await stream.ask(3, 5, state=first.state)).candidates)
        on_session = [await stream.ask(1, token) for token in (4, 5)]
        assert [list(one.candidates) for one in on_session] == [list(one.candidates) for one in (first, second)]
        assert await stream.finish() is Code.OK


async def test_a_repeat_is_answered_from_the_record() -> None:
    """Of a held turn too, and on another tag or stream."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        first = [await stream.ask(1, token, session_id="a", request_id=f"r{token}") for token in (1, 2, 3)]
        again = await stream.ask(1, 3, request_id="r3")
        assert again.is_replay
        again.is_replay = False
        assert again == first[2]
        assert (await stream.ask(5, 2, session_id="a", request_id="r2")).is_replay
        assert (await predict(served, [ask(0, 1, session_id="a", request_id="r1").request]))[0].is_replay
        assert (await stream.ask(1, 4)).position == 4
        assert reason(await stream.ask(1, 9, request_id="r3")) == "INVALID_REQUEST"
        assert await stream.finish() is Code.OK


async def test_tags_of_one_session_take_turns() -> None:
    """Each request is applied once, wherever it came from, and each tag's in their order."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        for _ in range(20):
            await stream.send(*[ask(tag, tag, session_id="a") for tag in range(5)])
        await stream.receive(100)
        positions = [[one.position for one in stream.answers[tag]] for tag in range(5)]
        assert sorted(itertools.chain(*positions)) == list(range(1, 101))
        assert all(ordered == sorted(ordered) for ordered in positions)
        assert await stream.finish() is Code.OK
        await served.until_idle()


async def test_one_request_on_two_tags_is_applied_once() -> None:
    """Also while the first is still running: the other is its repeat."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        for number in range(10):
            await stream.send(*[ask(tag, 3, session_id="a", request_id=f"r{number}") for tag in range(3)])
            await stream.receive(3)
            answers = [stream.answers[tag][-1] for tag in range(3)]
            assert {one.position for one in answers} == {number + 1}
            assert sorted(one.is_replay for one in answers) == [False, True, True]
            assert len({tuple(c.log_probability for c in one.candidates) for one in answers}) == 1
        assert await stream.finish() is Code.OK


async def test_sequences_of_a_stream_are_bounded() -> None:
    """What is beyond is refused by itself; closing one makes room."""
    async with serving(max_sequences_per_stream=2) as served:
        stream = served.many()
        await stream.ask(2**64 - 1, 1)
        await stream.ask(0, 1)
        refused = await stream.ask(5, 1)
        assert (reason(refused), refused.code) == ("OVERLOADED", code_pb2.RESOURCE_EXHAUSTED)
        assert (await stream.ask(0, 1)).position == 2
        await stream.send(end(2**64 - 1))
        assert (await stream.ask(2**63, 1)).position == 1
        assert await stream.finish() is Code.OK


async def test_strange_items_are_items() -> None:
    """One without a request asks what follows the start; what stands beside `close` is not looked at."""
    async with serving() as served:
        stream = served.many()
        await stream.send(wire.PredictManyRequest.Item(), wire.PredictManyRequest.Item(tag=0))
        await stream.receive(2)
        assert [one.position for one in stream.answers[0]] == [0, 0]
        both = ask(0, 1)
        both.close = True
        await stream.send(both)
        assert await stream.finish() is Code.OK
        assert stream.num_answers == 2


async def test_a_frame_that_cannot_be_read_ends_the_stream() -> None:
    """And frees what it held."""
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
    """After the answers that were made: beside one that is on its way, the first above all, no status can be sent."""
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
    """With their session, hashed, and their request."""
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


async def test_owners_hold_their_own() -> None:
    """Two owners' sessions of one name are two sessions, side by side."""
    async with serving(owner="x-owner") as served:
        for owner in ("ann", "bob"):
            await served.world.open("s", owner)
        streams = [served.many(metadata=metadata) for metadata in (ANN, BOB)]
        for token in (1, 2, 3):
            for count, stream in enumerate(streams, 1):
                for _ in range(count):
                    await stream.ask(1, token, session_id="s")
        assert [stream.answers[1][-1].position for stream in streams] == [3, 6]
        assert served.num_slots == 2
        nobody = served.many()
        await nobody.call.done_writing()
        assert await nobody.call.code() is Code.UNAUTHENTICATED
        assert [await stream.finish() for stream in streams] == [Code.OK] * 2
        await served.until_idle()
