"""A streamed response is the whole one in parts, as OpenAI's client adds them up; an error in the middle is never
silent."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from carousel.app import Running
from carousel.client import AsyncClient

OPTIONS: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 30, "temperature": 0}
EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
BEFORE = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
AFTER = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


async def read(client: openai.AsyncOpenAI, **options: Any) -> list[Any]:
    """Returns the events, each one validated."""
    stream = await client.responses.create(stream=True, **(OPTIONS | options))
    return [EVENTS.validate_json(event.model_dump_json()) async for event in stream]


async def test_the_events_come_in_order(client: openai.AsyncOpenAI) -> None:
    """They are numbered, name one response and one item, and their texts are the whole answer's."""
    whole = await client.responses.create(**OPTIONS)
    events = await read(client)
    kinds = [event.type for event in events]
    assert kinds[:4] == BEFORE
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [*AFTER, "response.incomplete"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    assert {event.response.id for event in events if hasattr(event, "response")} == {last.id}
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {last.output[0].id}
    text = "".join(event.delta for event in events[4:-4])
    assert text == events[-4].text == events[-3].part.text == last.output_text == whole.output_text
    assert events[-2].item == last.output[0]
    assert events[0].response.status == events[1].response.status == "in_progress"
    assert (events[0].response.output, events[0].response.usage) == ([], None)
    assert (last.usage, last.status, last.model_extra["position"]) == (whole.usage, "incomplete", 35)
    assert await client.responses.retrieve(last.id) == last


async def test_the_clients_helper_adds_them_up(client: openai.AsyncOpenAI) -> None:
    """`client.responses.stream` checks the order of the events, and has the final response of one that is complete."""
    seeded = OPTIONS | {"temperature": 1.5, "max_output_tokens": 80, "extra_body": {"seed": 4}}
    text = (await client.responses.create(**seeded)).output_text
    stop = next(letter for letter in text[5:] if letter.isascii())
    stopped = seeded | {"extra_body": {"seed": 4, "stop": stop}}
    async with client.responses.stream(**stopped) as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert final.output_text == snapshots[-1] == text[: text.index(stop)]
    assert final.status == "completed"
    again = await client.responses.create(**(OPTIONS | {"previous_response_id": final.id}))
    assert again.model_extra is not None
    assert again.model_extra["session_id"] == final.model_extra["session_id"]  # type: ignore[index]


async def test_the_blocking_client(server: Running) -> None:
    """It is what most programs use."""

    def ask() -> tuple[Response, Response, list[str]]:
        with openai.OpenAI(base_url=f"http://{server.openai_address}/v1", api_key="none") as client:
            whole = client.responses.create(**OPTIONS)
            with client.responses.stream(**OPTIONS) as stream:
                events = list(stream)
            found = client.responses.retrieve(whole.id)
            client.responses.delete(whole.id)
            return whole, found, [event.delta for event in events if event.type == "response.output_text.delta"]

    whole, found, deltas = await asyncio.to_thread(ask)
    assert whole.output_text == found.output_text == "".join(deltas)


async def test_a_repeat_streams_the_first_answer(client: openai.AsyncOpenAI) -> None:
    """Also where the first was whole."""
    options: dict[str, Any] = {"temperature": 5, "extra_headers": {"Idempotency-Key": "k"}}
    whole = await client.responses.create(**(OPTIONS | options))
    for _ in range(2):
        assert (await read(client, **options))[-1].response == whole


async def test_what_is_not_stored_streams_too(client: openai.AsyncOpenAI) -> None:
    events = await read(client, store=False)
    whole = await client.responses.create(**OPTIONS)
    assert events[-1].response.output_text == whole.output_text


async def test_a_refusal_before_the_text_has_a_status(client: openai.AsyncOpenAI) -> None:
    """No stream begins."""
    wrong: list[dict[str, Any]] = [{"temperature": -1}, {"input": "x" * 600_000}, {"max_output_tokens": 10**9}]
    for one in wrong:
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(stream=True, **(OPTIONS | one))
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(stream=True, previous_response_id="resp_x", **OPTIONS)


async def begin_and_end_session(client: openai.AsyncOpenAI, server: Running) -> Any:
    """Returns the stream of a response whose session ends after its first event."""
    one = await client.responses.create(**OPTIONS)
    assert one.model_extra is not None
    more = {"previous_response_id": one.id, "max_output_tokens": 4_000, "stream": True}
    stream = await client.responses.create(**(OPTIONS | more))
    await anext(aiter(stream))
    async with AsyncClient(server.grpc_address) as ours:
        await ours.delete_session(one.model_extra["session_id"])
    return stream


async def test_an_error_in_the_middle_is_told(client: openai.AsyncOpenAI, server: Running) -> None:
    """The response has failed, with what it had; then the client raises."""
    stream = await begin_and_end_session(client, server)
    events: list[Any] = []

    async def read_on() -> None:
        async for event in stream:
            events.append(event)

    with pytest.raises(openai.APIError) as told:
        await read_on()
    assert events[-1].type == "response.failed"
    failed = EVENTS.validate_json(events[-1].model_dump_json()).response  # type: ignore[union-attr]
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert "deleted" in failed.error.message
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert failed.output_text == "".join(deltas)
    assert isinstance(told.value.body, dict)
    assert told.value.body["message"] == failed.error.message


async def test_a_client_that_goes_frees_its_lane_and_leaves_no_session(
    server: Running, client: openai.AsyncOpenAI
) -> None:
    """At the next step."""
    long = OPTIONS | {"max_output_tokens": 16_000}
    stream = await client.responses.create(stream=True, **long)
    await anext(aiter(stream))
    assert server.engine.num_busy_lanes == 1
    await stream.close()
    with pytest.raises(openai.APITimeoutError):
        await client.responses.create(timeout=0.3, **long)
    async with asyncio.timeout(20):
        while server.engine.num_busy_lanes:
            await asyncio.sleep(0.01)
    assert await server.store.num_live() == 0
