"""Many sequences on one stream answer as on Predict streams of their own: bit for bit, in order, free of each other."""

import itertools
import random

import grpc
import pytest
from google.rpc import code_pb2
from tests.fakes import GatedModel
from tests.server.rpc.served_world import (
    ANN,
    BOB,
    Code,
    ServedWorld,
    ask,
    end,
    open_sessions,
    position,
    reason,
    serving,
)
from tests.worlds import Plan

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2


async def predict(served: ServedWorld, requests: list[wire.PredictRequest]) -> list[wire.PredictResponse]:
    """Sends the requests on a Predict stream of their own."""
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
    """Sessions and carried sequences, plain and other messages are mixed in frames of any size."""
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
    """A tag that waits for a long step delays no other tag's answer; its own answers come in order."""
    model = GatedModel()
    async with serving(Plan(model)) as served:
        await open_sessions(served, "a", "b")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        await stream.ask(2, 1, session_id="b")
        async with served.world.access.hold("", "a"):  # another caller has it
            await stream.send(*[ask(1, token) for token in (2, 3, 4)])
            for token in (5, 6, 7):
                await stream.ask(2, token)
            assert len(stream.answers[1]) == 1
        await stream.receive(3)
        assert [one.position for one in stream.answers[1]] == [1, 2, 3, 4]
        assert await stream.finish() is Code.OK


@pytest.mark.parametrize("first", [{"session_id": "a", "model": "other"}, {"session_id": "no id!"}])
async def test_a_tag_whose_session_was_refused_goes_on_on_no_other(first: dict[str, str]) -> None:
    """A later message without a name would otherwise be answered from a fresh sequence, which its caller did not ask
    for."""
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
    """No session was named, so nothing can be forgotten."""
    async with serving() as served:
        stream = served.many()
        assert reason(await stream.ask(1, 1, model="other")) == "MODEL_NOT_FOUND"
        assert (await stream.ask(1, 1)).position == 1
        assert await stream.finish() is Code.OK


async def test_an_error_leaves_its_tag_and_the_stream() -> None:
    """The error belongs to its message; the next one goes on where the session stands."""
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
    """This holds whether the session was held already or would have been from this message on."""
    async with serving() as served:
        await open_sessions(served, "a")
        stream = served.many()
        await stream.ask(1, 1, session_id="a")
        assert reason(await stream.ask(1, 2, expected_position=5)) == "POSITION_MISMATCH"
        await stream.send(end(1))
        await served.world.operations.get("", "a")
        assert await stream.finish() is Code.OK
        assert served.num_slots == 0


async def test_sealed_states_go_from_item_to_item() -> None:
    """A tag that brought a state goes on from it."""
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
    """This holds for a held turn, and on another tag or stream."""
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
    """Each request is applied once, wherever it came from, and each tag's requests in their order."""
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
    """While the first is still running, the other is its repeat."""
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
    """A sequence beyond the bound is refused alone; a close makes room."""
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
    """An item without a request asks what follows the start; fields beside `close` are not read."""
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


async def test_a_refused_state_leaves_what_was_carried() -> None:
    """The tag is where it was, and not at the start."""
    async with serving() as served:
        stream = served.many()
        for _ in range(3):
            await stream.ask(1, 1)
        assert reason(await stream.ask(1, 1, state=b"no state")) == "STATE_REFUSED"
        assert (await stream.ask(1, 1)).position == 4
        assert await stream.finish() is Code.OK
