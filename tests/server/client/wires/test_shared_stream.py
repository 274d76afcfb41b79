"""Many sequences on one stream: questions go out in frames, answers come in; no question waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from carousel.client import ServerError, ServerUnreachable
from carousel.client.wires.shared_stream import ITEM_BYTES, Sequence, SharedStream
from carousel.errors import InvalidRequest, Overloaded
from carousel.rpc.errors import to_status
from carousel.v1 import language_model_pb2 as lm

Item = lm.PredictManyResponse.Item
MAX_FRAME_BYTES = 10_000


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
    stream = SharedStream(script, "here:1", MAX_FRAME_BYTES)
    yield stream
    await stream.end()


def ask(stream: SharedStream, text: str = "a", ends_at: float | None = None) -> tuple[Sequence, asyncio.Task[Any]]:
    """A sequence's first question, on its way."""
    sequence, request = stream.begin(), lm.PredictRequest(input={"text": text})

    async def wait() -> Any:
        return await stream.ask(sequence, request, request.ByteSize(), ends_at)

    return sequence, asyncio.ensure_future(wait())


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


async def test_a_stream_that_is_cut_says_how_much_it_sent(stream: SharedStream, script: Script) -> None:
    """Frames, that is. Whether one was too large to be read, or a quota is used up, is for others to find out."""
    asked = [ask(stream, "a" * size)[1] for size in (1, 500, 20)]
    await settle()
    asked.append(ask(stream)[1])
    await settle()
    assert script.written[0].ByteSize() <= stream.largest_frame <= 600 + 3 * ITEM_BYTES
    script.answers.put_nowait(broken(grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert {error.code for error in await outcomes(*asked)} == {"RESOURCE_EXHAUSTED"}
    assert stream.is_cut


@pytest.mark.parametrize(
    ("code", "is_cut"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (grpc.StatusCode.INTERNAL, True),
        (grpc.StatusCode.UNAVAILABLE, False),
    ],
)
@pytest.mark.parametrize("is_writer", [True, False], ids=["writer", "reader"])
async def test_a_stream_may_have_been_cut(
    stream: SharedStream, script: Script, code: grpc.StatusCode, is_cut: bool, is_writer: bool
) -> None:
    """For want of something, or for a reason that grpc.aio hides from who writes, and at times from who reads."""
    if is_writer:
        script.failure = broken(code)
    else:
        script.answers.put_nowait(broken(code))
    await outcomes(ask(stream)[1])
    assert stream.is_cut == is_cut


async def test_frames_are_bounded(stream: SharedStream, script: Script) -> None:
    """In items and in bytes, ends of sequences included; what is larger by itself goes alone."""
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
    """On the wire, whatever the tags are and whatever else is in it, but for what is alone in it."""
    stream.max_frame_bytes, stream._last_tag = max_frame_bytes, 2**60
    open_ones = [ask(stream, "b" * 40) for _ in range(30)]
    await settle()
    for sequence, _ in open_ones:
        stream.close(sequence)
    [ask(stream, "a" * size) for size in range(max_frame_bytes - ITEM_BYTES)]
    await settle()
    assert sum(len(frame.items) for frame in script.written) == 60 + max_frame_bytes - ITEM_BYTES
    assert max(frame.ByteSize() for frame in script.written) <= max_frame_bytes


@pytest.mark.parametrize(
    "failure", [ValueError("no such frame"), grpc.aio.UsageError("closed"), MemoryError()], ids=repr
)
@pytest.mark.parametrize("is_writer", [True, False], ids=["writer", "reader"])
async def test_a_failure_that_nobody_foresaw_ends_the_stream(
    stream: SharedStream, script: Script, failure: Exception, is_writer: bool
) -> None:
    """In the writer as in the reader: who waits hears of it, and so does who asks later."""
    script.may_write.clear()
    (_, first), (_, second) = ask(stream), ask(stream)
    await settle()
    if is_writer:
        script.failure = failure
        script.may_write.set()
    else:
        script.answers.put_nowait(failure)
    errors = [*await outcomes(first, second), *await outcomes(ask(stream)[1])]
    assert [error.code for error in errors] == ["INTERNAL"] * 3
    assert type(failure).__name__ in str(errors[0])
    assert "cancelled" in script.events


@pytest.mark.parametrize("name", ["_read_on", "_write_on"])
@pytest.mark.parametrize("is_early", [True, False], ids=["before it runs", "while it waits"])
async def test_a_cancelled_task_ends_the_stream(script: Script, name: str, is_early: bool) -> None:
    """Whoever cancels all tasks of an event loop leaves nobody waiting."""
    stream = SharedStream(script, "here:1", MAX_FRAME_BYTES)
    if not is_early:
        await settle()
    _, asked = ask(stream)
    if not is_early:
        await settle()
    (task,) = [task for task in asyncio.all_tasks() if name in repr(task)]
    task.cancel()
    (error,) = await outcomes(asked)
    assert error.code == "CANCELLED"
    assert stream.failure is not None
    await stream.end()


async def test_an_end_that_is_cancelled_is_an_end(stream: SharedStream, script: Script) -> None:
    """Nothing is left open, though there was no time for good order."""
    script.may_write.clear()
    sequence, asked = ask(stream)
    await settle()
    script.answer(right(1))
    await asked
    ending = asyncio.ensure_future(stream.end())
    await settle()
    assert stream.failure is None
    ending.cancel()
    await outcomes(ending)
    assert stream.failure is not None
    assert "cancelled" in script.events


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


async def test_an_answer_in_time_leaves_no_timer(stream: SharedStream, script: Script) -> None:
    """Nor does a question that was given up: there may be thousands, with minutes left."""
    (answered, first), (_, second) = ask(stream, ends_at=stream.loop.time() + 99), ask(stream, ends_at=1e9)
    await settle()
    script.answer(right(1))
    second.cancel()
    await outcomes(first, second)
    timers: Any = stream.loop._scheduled  # type: ignore[attr-defined]
    assert [timer for timer in timers if "_expire" in repr(timer) and not timer.cancelled()] == []
    assert answered.answer is None


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
        stream.ask(sequence, lm.PredictRequest(), 0, None)


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
        stream.ask(stream.begin(), lm.PredictRequest(), 0, None)
    assert caught.value.code == "UNAUTHENTICATED"
