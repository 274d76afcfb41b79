"""Many sequences on one stream: requests go out in frames, answers come in; no request hangs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.server.client.wires.scripted_stream import (
    MAX_FRAME_BYTES,
    Item,
    Script,
    ask,
    outcomes,
    right,
    settle,
)

from carousel.client import ServerUnreachable
from carousel.client.wires.shared_stream import ITEM_BYTES, SharedStream
from carousel.errors import InvalidRequest, Overloaded
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def stream(script: Script) -> AsyncIterator[SharedStream]:
    stream = SharedStream(script, "here:1", MAX_FRAME_BYTES)
    yield stream
    await stream.end()


async def test_questions_of_one_tick_go_in_one_frame(stream: SharedStream, script: Script) -> None:
    """Each gets its own answer, in any order."""
    asked = [ask(stream, text)[1] for text in "abc"]
    await settle()
    assert [[(item.tag, item.request.input.text) for item in frame.items] for frame in script.written] == [
        [(1, "a"), (2, "b"), (3, "c")]
    ]
    script.answer(right(3), right(1))
    script.answer(right(2))
    assert [answer.position for answer in await outcomes(*asked)] == [1, 2, 3]


async def test_what_is_asked_during_a_write_goes_with_the_next(stream: SharedStream, script: Script) -> None:
    """Only one frame is sent at a time."""
    script.may_write.clear()
    ask(stream)
    await settle()
    later = [ask(stream) for _ in range(2)]
    await settle()
    assert script.written == []
    script.may_write.set()
    await settle()
    assert [len(frame.items) for frame in script.written] == [1, len(later)]


async def test_a_refusal_is_the_error_that_a_call_would_raise(stream: SharedStream, script: Script) -> None:
    """The error has reason, violations and pause; the other sequences are not affected."""
    asked = [ask(stream)[1] for _ in range(4)]
    await settle()
    refusals = [InvalidRequest("k", "must be at most 256"), Overloaded("too many", limit="x", retry_seconds=0.5)]
    items = [Item(tag=number + 1, status=to_status(error)) for number, error in enumerate(refusals)]
    script.answer(*items, Item(tag=3, status={"code": 77, "message": "odd"}), right(4))
    refused, overloaded, odd, answer = await outcomes(*asked)
    assert (refused.code, refused.violations[0].field) == ("INVALID_ARGUMENT", "k")
    assert (overloaded.reason, overloaded.retry_after_seconds, overloaded.details["limit"]) == ("OVERLOADED", 0.5, "x")
    assert isinstance(odd, ServerUnreachable)  # without our server's word, UNKNOWN is a broken connection
    assert answer.position == 4
    assert stream.failure is None


async def test_an_answer_that_comes_after_the_end_is_passed_over(stream: SharedStream, script: Script) -> None:
    """The server did not know of the end yet; the others continue."""
    (gone, _), (_, other) = ask(stream), ask(stream)
    await settle()
    stream.close(gone)
    script.answer(right(1), right(2))
    assert (await outcomes(other))[0].position == 2


async def test_frames_are_bounded(stream: SharedStream, script: Script) -> None:
    """The limits count items and bytes, including ends of sequences; a larger request goes alone."""
    stream.max_frame_bytes = 60_000
    asked = [ask(stream)[1] for _ in range(2500)]
    await settle()
    assert [len(frame.items) for frame in script.written] == [1024, 1024, 452]
    stream.max_frame_bytes = MAX_FRAME_BYTES
    asked += [ask(stream, "a" * size)[1] for size in (60_000, 6_000, *[1_000] * 11)]
    await settle()
    assert [len(frame.items) for frame in script.written[3:]] == [1, 4, 8]
    await stream.end()
    assert {error.code for error in await outcomes(*asked)} == {"CANCELLED"}


@pytest.mark.parametrize("max_frame_bytes", [100, 1_000])
async def test_a_frame_is_never_larger_than_it_may_be(
    stream: SharedStream, script: Script, max_frame_bytes: int
) -> None:
    """This holds for the bytes on the wire, with any tags and other items, except for a single large request."""
    stream.max_frame_bytes, stream._last_tag = max_frame_bytes, 2**60
    open_ones = [ask(stream, "b" * 40) for _ in range(30)]
    await settle()
    for sequence, _ in open_ones:
        stream.close(sequence)
    [ask(stream, "a" * size) for size in range(max_frame_bytes - ITEM_BYTES)]
    await settle()
    assert sum(len(frame.items) for frame in script.written) == 60 + max_frame_bytes - ITEM_BYTES
    assert max(frame.ByteSize() for frame in script.written) <= max_frame_bytes


async def test_what_nobody_has_sent_need_not_be_closed(stream: SharedStream, script: Script) -> None:
    """While writing is blocked, sequences that come and go leave only the ends of those that were sent."""
    sent, _ = ask(stream)
    await settle()
    script.may_write.clear()
    ask(stream)
    await settle()
    for _ in range(100):
        sequence, asked = ask(stream)
        await asyncio.sleep(0)
        stream.close(sequence)
        asked.cancel()
    stream.close(sent)
    stream.close(sent)
    assert "1 items waiting" in repr(stream)
    script.may_write.set()
    await settle()
    assert [[(item.tag, item.close) for item in frame.items] for frame in script.written[1:]] == [
        [(2, False)],
        [(1, True)],
    ]


async def test_a_question_has_its_own_time(stream: SharedStream) -> None:
    """Other requests are not affected."""
    (_, late), (_, other) = ask(stream, ends_at=stream.loop.time()), ask(stream)
    (error,) = await outcomes(late)
    assert error.code == "DEADLINE_EXCEEDED"
    assert not other.done()


async def test_an_answer_that_comes_too_late_is_passed_over(stream: SharedStream, script: Script) -> None:
    """Its caller has the timeout error, and has not closed the sequence yet; the others continue."""
    (_, late), (_, other) = ask(stream, ends_at=stream.loop.time()), ask(stream)
    await outcomes(late)
    script.answer(right(1), right(2))
    assert (await outcomes(other))[0].position == 2
    assert stream.failure is None


async def test_an_answer_in_time_leaves_no_timer(stream: SharedStream, script: Script) -> None:
    """A request that was given up leaves none either: there may be thousands, with minutes left."""
    (answered, first), (_, second) = ask(stream, ends_at=stream.loop.time() + 99), ask(stream, ends_at=1e9)
    await settle()
    script.answer(right(1))
    second.cancel()
    await outcomes(first, second)
    timers: Any = stream.loop._scheduled  # type: ignore[attr-defined]
    assert [timer for timer in timers if "_expire" in repr(timer) and not timer.cancelled()] == []
    assert answered.answer is None


async def test_a_sequence_that_is_closed_keeps_nobody_waiting(stream: SharedStream) -> None:
    """This holds for any closing caller."""
    sequence, asked = ask(stream)
    await settle()
    stream.close(sequence)
    assert (await outcomes(asked))[0].code == "CANCELLED"


async def test_a_sequence_has_one_question_at_a_time(stream: SharedStream) -> None:
    """A second answer could not be matched."""
    sequence, _ = ask(stream)
    await settle()
    with pytest.raises(RuntimeError, match="one request"):
        stream.ask(sequence, lm.PredictRequest(), 0, None)
