"""Many sequences on one stream: questions go out in frames, answers come in; no question waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from carousel.client import ServerError, ServerUnreachable
from carousel.client.wires.shared_stream import LARGE_BYTES, Sequence, SharedStream
from carousel.errors import InvalidRequest, Overloaded
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm

Item = lm.PredictManyResponse.Item


class Script:
    """A call. What it reads, the test puts; what is written, it keeps, unless `may_write` is cleared."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.written: list[Any] = []
        self.events: list[str] = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.failure: BaseException | None = None  # of the next write

    async def read(self) -> Any:
        answer = await self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def write(self, frame: Any) -> None:
        await self.may_write.wait()
        if self.failure is not None:
            raise self.failure
        self.written.append(frame)

    async def done_writing(self) -> None:
        self.events.append("done writing")
        self.answers.put_nowait(grpc.aio.EOF)

    def cancel(self) -> None:
        self.events.append("cancelled")
        self.answers.put_nowait(grpc.aio.EOF)

    def answer(self, *items: Any) -> None:
        self.answers.put_nowait(lm.PredictManyResponse(items=items))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def stream(script: Script) -> AsyncIterator[SharedStream]:
    stream = SharedStream(script, "here:1")
    yield stream
    await stream.end()


def ask(stream: SharedStream, text: str = "a", ends_at: float | None = None) -> tuple[Sequence, asyncio.Task[Any]]:
    """A sequence's first question, on its way."""
    sequence, request = stream.begin(), lm.PredictRequest(input={"text": text})
    return sequence, asyncio.ensure_future(stream.ask(sequence, request, request.ByteSize(), ends_at))


async def outcomes(*asked: asyncio.Task[Any]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)


async def settle() -> None:
    """Whatever can happen now has happened."""
    for _ in range(10):
        await asyncio.sleep(0)


def right(tag: int) -> Any:
    return Item(tag=tag, response=lm.PredictResponse(position=tag))


def broken(code: grpc.StatusCode) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")


async def test_questions_of_one_tick_go_in_one_frame(stream: SharedStream, script: Script) -> None:
    """And each gets its own answer, in whatever order these come."""
    asked = [ask(stream, text)[1] for text in "abc"]
    await settle()
    assert [[(item.tag, item.request.input.text) for item in frame.items] for frame in script.written] == [
        [(1, "a"), (2, "b"), (3, "c")]
    ]
    script.answer(right(3), right(1))
    script.answer(right(2))
    assert [answer.position for answer in await outcomes(*asked)] == [1, 2, 3]


async def test_what_is_asked_during_a_write_goes_with_the_next(stream: SharedStream, script: Script) -> None:
    """One frame is on its way at a time."""
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
    """With reason, violations and pause; the other sequences know nothing of it."""
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


@pytest.mark.parametrize(
    "items",
    [
        [right(9)],
        [right(0)],
        [Item(tag=1)],
        [right(1), right(1)],
    ],
    ids=["unknown tag", "tag 0", "no outcome", "answered twice"],
)
async def test_an_answer_to_no_question_breaks_the_stream(
    stream: SharedStream, script: Script, items: list[Any]
) -> None:
    """Nobody waits for what such a peer may send next: what is due fails as on a broken connection."""
    (_, first), (_, second) = ask(stream), ask(stream)
    await settle()
    script.answer(*items)
    outcome, other = await outcomes(first, second)
    assert isinstance(other, ServerUnreachable)
    assert isinstance(outcome, ServerUnreachable) or outcome.position == 1
    assert script.events == ["cancelled"]
    assert isinstance((await outcomes(ask(stream)[1]))[0], ServerUnreachable)


async def test_an_answer_that_comes_after_the_end_is_passed_over(stream: SharedStream, script: Script) -> None:
    """The server did not know yet; the others go on."""
    (gone, _), (_, other) = ask(stream), ask(stream)
    await settle()
    stream.close(gone)
    script.answer(right(1), right(2))
    assert (await outcomes(other))[0].position == 2


@pytest.mark.parametrize(
    "end", [grpc.aio.EOF, *map(broken, (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL))], ids=repr
)
async def test_the_end_of_the_stream_fails_what_is_due(stream: SharedStream, script: Script, end: Any) -> None:
    """Each asker with an error of his own, as a broken stream of his own would give."""
    asked = [ask(stream)[1] for _ in range(2)]
    await settle()
    script.answers.put_nowait(end)
    first, second = await outcomes(*asked)
    assert first is not second
    assert first.code == second.code == ("OK" if end is grpc.aio.EOF else "UNAVAILABLE")


async def test_a_write_that_fails_ends_the_stream(stream: SharedStream, script: Script) -> None:
    """grpc.aio hides how the call ended, so that it ended early is all that is known."""
    script.failure = broken(grpc.StatusCode.INTERNAL)
    (error,) = await outcomes(ask(stream)[1])
    assert (error.code, script.events[0]) == ("OK", "cancelled")


async def test_a_message_too_large_to_be_read_is_its_senders_fault(stream: SharedStream, script: Script) -> None:
    """It ends the stream; the others may ask again elsewhere, also those that had nothing out."""
    (idle, _), (_, small), (_, large) = ask(stream), ask(stream), ask(stream, "a" * LARGE_BYTES)
    await settle()
    script.answer(right(1))
    await settle()
    script.answers.put_nowait(broken(grpc.StatusCode.RESOURCE_EXHAUSTED))
    of_small, of_large = await outcomes(small, large)
    assert (of_small.code, of_large.code) == ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
    with pytest.raises(ServerUnreachable):
        await stream.ask(idle, lm.PredictRequest(), 0, None)


async def test_frames_are_bounded(stream: SharedStream, script: Script) -> None:
    """In items and in bytes; what is larger by itself goes alone."""
    asked = [ask(stream)[1] for _ in range(2500)]
    await settle()
    assert [len(frame.items) for frame in script.written] == [1024, 1024, 452]
    asked += [ask(stream, "a" * size)[1] for size in (600_000, 60_000, *[100_000] * 6)]
    await settle()
    assert [len(frame.items) for frame in script.written[3:]] == [1, 5, 2]
    await stream.end()
    assert {error.code for error in await outcomes(*asked)} == {"CANCELLED"}


async def test_what_nobody_has_sent_need_not_be_closed(stream: SharedStream, script: Script) -> None:
    """While nothing can be written, sequences that come and go leave nothing behind but the ends of those sent."""
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
    """The others do not mind."""
    (_, late), (_, other) = ask(stream, ends_at=stream.loop.time()), ask(stream)
    (error,) = await outcomes(late)
    assert error.code == "DEADLINE_EXCEEDED"
    assert not other.done()


async def test_a_sequence_that_is_closed_keeps_nobody_waiting(stream: SharedStream) -> None:
    """Whoever closes it."""
    sequence, asked = ask(stream)
    await settle()
    stream.close(sequence)
    assert (await outcomes(asked))[0].code == "CANCELLED"


async def test_a_sequence_has_one_question_at_a_time(stream: SharedStream) -> None:
    """A second one would be taken for the answer's."""
    sequence, _ = ask(stream)
    await settle()
    with pytest.raises(RuntimeError, match="one question"):
        await stream.ask(sequence, lm.PredictRequest(), 0, None)


async def test_a_stream_on_which_nothing_is_due_ends_in_order(stream: SharedStream, script: Script) -> None:
    """The server hears the ends of all sequences, then the stream's."""
    _, asked = ask(stream)
    await settle()
    script.answer(right(1))
    await asked
    await stream.end()
    assert script.written[-1].items[0].close
    assert script.events[0] == "done writing"


async def test_nobody_waits_for_what_is_due_when_the_stream_is_ended(stream: SharedStream, script: Script) -> None:
    """It fails as cancelled."""
    _, asked = ask(stream)
    await settle()
    await stream.end()
    assert (await outcomes(asked))[0].code == "CANCELLED"
    assert "done writing" not in script.events


async def test_a_stream_that_is_left_ends_with_its_last_sequence(stream: SharedStream, script: Script) -> None:
    """Those that are on it are answered."""
    sequence, asked = ask(stream)
    await settle()
    stream.leave()
    await settle()
    assert script.events == []
    script.answer(right(1))
    assert (await outcomes(asked))[0].position == 1
    stream.close(sequence)
    await settle()
    assert script.events == ["done writing", "cancelled"]


async def test_a_failed_stream_says_so_in_order(stream: SharedStream, script: Script) -> None:
    """The first reason counts."""
    script.answers.put_nowait(broken(grpc.StatusCode.UNAUTHENTICATED))
    await settle()
    await stream.end()
    with pytest.raises(ServerError) as caught:
        await stream.ask(stream.begin(), lm.PredictRequest(), 0, None)
    assert caught.value.code == "UNAUTHENTICATED"
