"""However a shared stream ends, every waiting caller gets an error, and nothing stays."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.server.client.wires.scripted_stream import (
    MAX_FRAME_BYTES,
    Item,
    Script,
    ask,
    broken,
    outcomes,
    right,
    settle,
)

from carousel.client import ServerError, ServerUnreachable
from carousel.client.wires.shared_stream import ITEM_BYTES, SharedStream
from carousel.v1 import language_model_pb2 as lm


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def stream(script: Script) -> AsyncIterator[SharedStream]:
    stream = SharedStream(script, "here:1", MAX_FRAME_BYTES)
    yield stream
    await stream.end()


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
    """Such a peer cannot be trusted: open requests fail as on a broken connection."""
    (_, first), (_, second) = ask(stream), ask(stream)
    await settle()
    script.answer(*items)
    outcome, other = await outcomes(first, second)
    assert isinstance(other, ServerUnreachable)
    assert isinstance(outcome, ServerUnreachable) or outcome.position == 1
    assert script.events == ["cancelled"]
    assert isinstance((await outcomes(ask(stream)[1]))[0], ServerUnreachable)


@pytest.mark.parametrize(
    "end", [grpc.aio.EOF, *map(broken, (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL))], ids=repr
)
async def test_the_end_of_the_stream_fails_what_is_due(stream: SharedStream, script: Script, end: Any) -> None:
    """Each caller gets a separate error, as from its own broken stream."""
    asked = [ask(stream)[1] for _ in range(2)]
    await settle()
    script.answers.put_nowait(end)
    first, second = await outcomes(*asked)
    assert first is not second
    assert first.code == second.code == ("OK" if end is grpc.aio.EOF else "UNAVAILABLE")


async def test_a_write_that_fails_ends_the_stream(stream: SharedStream, script: Script) -> None:
    """grpc.aio hides how the call ended, so the error only says that it ended early."""
    script.failure = broken(grpc.StatusCode.INTERNAL)
    (error,) = await outcomes(ask(stream)[1])
    assert (error.code, script.events[0]) == ("OK", "cancelled")


async def test_a_stream_that_is_cut_says_how_much_it_sent(stream: SharedStream, script: Script) -> None:
    """The size of frames is recorded. Other code decides whether one was too large, or a quota is used up."""
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
    """Either a resource ran out, or grpc.aio hides the reason from the writer, and sometimes from the reader."""
    if is_writer:
        script.failure = broken(code)
    else:
        script.answers.put_nowait(broken(code))
    await outcomes(ask(stream)[1])
    assert stream.is_cut == is_cut


@pytest.mark.parametrize(
    "failure", [ValueError("no such frame"), grpc.aio.UsageError("closed"), MemoryError()], ids=repr
)
@pytest.mark.parametrize("is_writer", [True, False], ids=["writer", "reader"])
async def test_a_failure_that_nobody_foresaw_ends_the_stream(
    stream: SharedStream, script: Script, failure: Exception, is_writer: bool
) -> None:
    """This holds in the writer and in the reader: waiting and later callers get the error."""
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
    """A caller that cancels all tasks of an event loop leaves none hanging."""
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
    """Nothing stays open, although there was no time for a normal end."""
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


async def test_a_stream_on_which_nothing_is_due_ends_in_order(stream: SharedStream, script: Script) -> None:
    """The server sees the ends of all sequences, then the stream's."""
    _, asked = ask(stream)
    await settle()
    script.answer(right(1))
    await asked
    await stream.end()
    assert script.written[-1].items[0].close
    assert script.events[0] == "done writing"


async def test_nobody_waits_for_what_is_due_when_the_stream_is_ended(stream: SharedStream, script: Script) -> None:
    """Open requests fail as cancelled."""
    _, asked = ask(stream)
    await settle()
    await stream.end()
    assert (await outcomes(asked))[0].code == "CANCELLED"
    assert "done writing" not in script.events


async def test_a_stream_that_is_left_ends_with_its_last_sequence(stream: SharedStream, script: Script) -> None:
    """Its sequences still get answers."""
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
