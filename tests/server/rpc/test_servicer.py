"""Turns and texts on the wire, above a stand-in: who asked, what was asked, and no more at once than is good."""

import asyncio
from typing import Any

import grpc
import pytest
import structlog
from tests.server.rpc.desk import Desk, open_desk
from tests.server.rpc.served_house import refusal

from carousel.errors import SessionNotFound
from carousel.sessions.requests import Caller
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import types_pb2

ANN = (("x-owner", "ann"),)


def given(num_tokens: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=[1] * num_tokens))


async def test_the_caller_is_told_whole_to_every_turn() -> None:
    """Owner, session, state, request id and position arrive, with a session, with a state and with neither."""
    rest: dict[str, Any] = {"request_id": "r", "expected_position": 0}
    async with open_desk(owner="x-owner") as desk:
        for name, state in (("s", b""), ("", b"x"), ("", b"")):
            for request in (wire.GenerateRequest, wire.ScoreRequest):
                method = getattr(desk.model, request.__name__.removesuffix("Request"))
                async for _ in method(request(session_id=name, state=state, **rest), metadata=ANN):
                    pass
            predict = iter([wire.PredictRequest(session_id=name, state=state, **rest)])
            async for _ in desk.model.Predict(predict, metadata=ANN):
                pass
            callers = {asked[0] for asked in desk.sessions.seen}
            assert callers == {Caller("ann", name, state, "r", 0)}
            desk.sessions.seen.clear()


async def test_a_stream_without_a_session_carries_its_sequence() -> None:
    """Each message goes on from the one before, for the same caller."""
    async with open_desk() as desk:
        answers = [one async for one in desk.model.Predict(iter([wire.PredictRequest()] * 3))]
        assert [one.position for one in answers] == [1, 2, 3]


async def test_the_message_that_failed_is_the_one_that_is_logged() -> None:
    """The line of the stream that it ended has its request id."""
    async with open_desk() as desk:
        stream = desk.model.Predict()
        await stream.write(wire.PredictRequest(request_id="one"))
        await stream.read()
        desk.sessions.raises = SessionNotFound("there is no such session")
        with structlog.testing.capture_logs() as lines:
            await stream.write(wire.PredictRequest(request_id="two"))
            await refusal(stream.read())
        assert [(line["reason"], line["request_id"]) for line in lines] == [("SESSION_NOT_FOUND", "two")]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (wire.GenerateRequest(input=given(6)), "input"),
        (wire.GenerateRequest(stop_ids=[1] * 3), "stop_ids"),
        (wire.ScoreRequest(input=given(6)), "input"),
        (wire.PredictRequest(input=given(6)), "input"),
        (wire.DetokenizeRequest(ids=[1] * 6), "ids"),
    ],
)
async def test_lists_are_bounded_before_they_are_read(message: object, field: str) -> None:
    """The bounds are the settings that GetModel tells; nothing below hears of the request."""
    async with open_desk(max_input_tokens=5, max_stop_ids=2) as desk:
        method = type(message).__name__.removesuffix("Request")
        argument = iter([message]) if method == "Predict" else message
        code, _, details = await refusal(getattr(desk.model, method)(argument))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert [one.field for one in details["BadRequest"].field_violations] == [field]
        assert desk.sessions.seen == []


async def test_the_bounds_themselves_pass() -> None:
    """The longest allowed lists are those that GetModel tells."""
    async with open_desk(max_input_tokens=5, max_stop_ids=2) as desk:
        await desk.model.Detokenize(wire.DetokenizeRequest(ids=[1] * 5))
        request = wire.GenerateRequest(input=given(5), stop_ids=[1, 2], max_tokens=1)
        assert [one async for one in desk.model.Generate(request)]


async def test_token_ids_are_turned_into_text_for_their_caller() -> None:
    """The caller's name goes with them, so that his long lists wait for each other."""
    async with open_desk(owner="x-owner") as desk:
        answer = await desk.model.Detokenize(wire.DetokenizeRequest(ids=[1, 2]), metadata=ANN)
        assert answer.text == desk.sessions.tokenizer.decode([1, 2])
        assert desk.sessions.seen == [("ann", (1, 2))]


async def test_a_long_text_is_answered_in_slices() -> None:
    """Other calls are served while 60,000 tokens are written: the loop turns at least once a slice."""
    async with open_desk() as desk:
        turns = asyncio.create_task(_count_turns(desk))
        found = await desk.model.Tokenize(wire.TokenizeRequest(text="ab" * 30_000))
        assert len(found.tokens) == 60_000
        turns.cancel()
        assert await turns >= 60_000 // 2048


async def _count_turns(desk: Desk) -> int:
    """Counts the turns of the loop from when the text is there."""
    num_turns = 0
    try:
        while True:
            await asyncio.sleep(0)
            num_turns += bool(desk.sessions.seen)
    except asyncio.CancelledError:
        return num_turns
