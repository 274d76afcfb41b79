"""OpenAI's own client has responses that go on from each other: each id is a point in a session's past."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from tests.server.running_app import LOCAL
from tests.server.web.openai.conftest import connect
from tests.server.web.openai.losing import losing_first

from carousel.app import Running, running
from carousel.client import AsyncClient
from carousel.identity.principals import digest
from carousel.settings import Settings

SETTINGS = Settings(**LOCAL, openai_listen="127.0.0.1:0")
KEYS = {"ann": "a" * 40, "bob": "b" * 40, "cut": "c" * 40, "all": "d" * 40}
PRINCIPALS = f"""
[[principal]]
name = "ann"
tokens = ["{digest(KEYS["ann"])}"]
scopes = ["generate", "sessions"]
owner = "team"

[[principal]]
name = "bob"
tokens = ["{digest(KEYS["bob"])}"]
scopes = ["generate", "sessions"]

[[principal]]
name = "cut"
tokens = ["{digest(KEYS["cut"])}"]
scopes = ["generate"]
owner = "team"

[[principal]]
name = "all"
tokens = ["{digest(KEYS["all"])}"]
scopes = ["admin"]
owner = "team"
"""


@pytest.fixture
async def ours(server: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc_address) as client:
        yield client


async def ask(client: openai.AsyncOpenAI, text: str = "hello", previous: str | None = None, **options: Any) -> Response:
    """The client itself only constructs; this validates."""
    given: dict[str, Any] = {"model": "tiny", "input": text, "max_output_tokens": 6, "temperature": 0} | options
    made = await client.responses.create(previous_response_id=previous, **given)
    return Response.model_validate_json(made.model_dump_json())


def extra(response: Response, name: str) -> Any:
    assert response.model_extra is not None
    return response.model_extra.get(name)


def code_of(told: Any) -> str:
    return str(told.value.body["code"])


async def test_a_response_is_what_grpc_gives(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """The same seed, the same text. Usage, status and what was asked for are told."""
    options: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9}
    expected = "".join([piece.text async for piece in ours.generate("hello", max_tokens=12, seed=5, **options)])
    made = await ask(client, max_output_tokens=12, extra_body={"seed": 5}, metadata={"a": "b"}, user="u", **options)
    assert made.output_text == expected
    assert (made.status, made.error, made.object, made.model) == ("incomplete", None, "response", "tiny")
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert (made.temperature, made.top_p, made.max_output_tokens) == (0.8, 0.9, 12)
    assert (made.metadata, made.user, made.previous_response_id) == ({"a": "b"}, "u", None)
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (5, 12, 17)
    assert made.usage.input_tokens_details.cached_tokens == 0
    assert made.usage.output_tokens_details.reasoning_tokens == 0
    assert extra(made, "position") == 17
    assert (await ours.get_session(extra(made, "session_id"))).position == 17


async def test_a_stop_completes(client: openai.AsyncOpenAI) -> None:
    """A string, several strings, ids."""
    options: dict[str, Any] = {"temperature": 1.5, "max_output_tokens": 80}
    text = (await ask(client, extra_body={"seed": 4}, **options)).output_text
    stop = next(letter for letter in text[5:] if letter.isascii())
    for given in ({"stop": stop}, {"stop": [stop, "never"]}, {"stop_token_ids": [ord(stop)]}):
        made = await ask(client, extra_body={"seed": 4, **given}, **options)
        assert (made.output_text, made.status, made.incomplete_details) == (text[: text.index(stop)], "completed", None)
        assert made.output[0].status == "completed"  # type: ignore[union-attr]


async def test_messages_are_their_texts_in_order(client: openai.AsyncOpenAI) -> None:
    """Strings and parts, with nothing between."""
    plain = await ask(client, "hello you")
    for given in (
        [{"role": "user", "content": "hello you"}],
        [{"role": "user", "content": "hello"}, {"type": "message", "role": "user", "content": " you"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "hello"}, {"type": "text", "text": " you"}]}],
    ):
        made = await ask(client, given)  # type: ignore[arg-type]
        assert made.output_text == plain.output_text
        assert made.usage == plain.usage


async def test_nulls_are_defaults(client: openai.AsyncOpenAI) -> None:
    """And what does nothing here is accepted: some clients send it."""
    null: Any = None
    made = await client.responses.create(
        model="tiny", input="hi", instructions=null, max_output_tokens=null, temperature=null, top_p=null, store=null,
        previous_response_id=null, conversation=null, metadata=null, truncation="auto", service_tier="auto",
        parallel_tool_calls=True, tool_choice="auto", tools=[], include=[], background=False, top_logprobs=null,
        reasoning=null, text={"format": {"type": "text"}, "verbosity": "medium"}, user="u", safety_identifier="s",
        prompt_cache_key="k",
    )  # fmt: skip
    assert made.usage is not None
    assert made.usage.output_tokens == 128


async def test_the_newest_goes_on(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """Two responses are one text, in one session."""
    one = await ask(client)
    two = await ask(client, " you", one.id)
    assert extra(one, "session_id") == extra(two, "session_id")
    assert (extra(one, "position"), extra(two, "position")) == (11, 21)
    assert two.previous_response_id == one.id
    await ours.create_session("s")
    rest = [piece.text async for piece in ours.generate("hello", max_tokens=6, temperature=0, session_id="s")]
    assert "".join(rest) == one.output_text
    rest = [piece.text async for piece in ours.generate(" you", max_tokens=6, temperature=0, session_id="s")]
    assert "".join(rest) == two.output_text


async def test_an_older_one_forks(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """Both go on by themselves, and the fork's ids name the fork."""
    one = await ask(client)
    two = await ask(client, " you", one.id)
    fork = await ask(client, " you", one.id)
    assert extra(fork, "session_id") != extra(two, "session_id")
    assert (fork.output_text, extra(fork, "position")) == (two.output_text, 21)
    for response in (two, fork):
        last = await ask(client, "!", response.id)
        assert (extra(last, "session_id"), extra(last, "position")) == (extra(response, "session_id"), 28)
    assert len([row async for row in ours.list_sessions()]) == 2


async def test_of_two_at_once_one_forks(client: openai.AsyncOpenAI) -> None:
    """Neither follows the other's text."""
    one = await ask(client)
    made = await asyncio.gather(*[ask(client, " you", one.id) for _ in range(4)])
    assert len({response.output_text for response in made}) == 1
    assert [extra(response, "position") for response in made] == [21] * 4
    found = [extra(response, "session_id") for response in made]
    assert len(set(found)) == 4
    assert extra(one, "session_id") in found


async def test_a_checkpoint_does_not_age_a_response(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """What is made of the session beside it leaves it the newest, as long as nothing moves."""
    one = await ask(client)
    await ours.save_checkpoint(extra(one, "session_id"), "here")
    two = await ask(client, " you", one.id)
    assert extra(two, "session_id") == extra(one, "session_id")


async def test_a_gone_one_is_not_found(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """Too old, rewound, ended: the client reads one code, and the message says why."""
    first = last = await ask(client)
    for _ in range(9):
        last = await ask(client, "x", last.id)
    lone = await ask(client)
    await ours.delete_session(extra(lone, "session_id"))
    rewound = await ask(client)
    back = await ask(client, "x", rewound.id)
    await ours.rewind_session(extra(rewound, "session_id"), position=11)
    for response in (first, lone, back):
        with pytest.raises(openai.NotFoundError) as told:
            await ask(client, "x", response.id)
        assert code_of(told) == "previous_response_not_found"
        assert told.value.param == "previous_response_id"
    assert extra(await ask(client, "x", rewound.id), "session_id") == extra(rewound, "session_id")


async def test_what_is_not_stored_cannot_be_continued(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """It changes nothing, whether it goes on from a response or not."""
    one = await ask(client)
    two = await ask(client, " you", one.id, store=False)
    assert (extra(two, "store"), extra(two, "session_id"), extra(two, "position")) == (False, None, None)
    for response_id in (two.id, (await ask(client, store=False)).id):
        with pytest.raises(openai.NotFoundError):
            await ask(client, "x", response_id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response_id)
    kept = await ask(client, " you", one.id)
    assert (kept.output_text, extra(kept, "session_id")) == (two.output_text, extra(one, "session_id"))
    assert len([row async for row in ours.list_sessions()]) == 1


async def test_a_conversation_is_a_session(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """By name, object or header; it begins where it does not exist; its responses have ids like others."""
    one = await ask(client, conversation="tale")
    assert one.conversation is not None
    assert one.conversation.id == extra(one, "session_id") == "tale"
    two = await ask(client, " you", conversation={"id": "tale"}, extra_body={"expected_position": 11})
    three = await ask(client, "!", extra_headers={"x-session-id": "tale"})
    assert (await ours.get_session("tale")).position == extra(three, "position") == 28
    fork = await ask(client, "!", two.id)
    assert fork.output_text == three.output_text
    assert extra(fork, "session_id") != "tale"
    with pytest.raises(openai.ConflictError) as told:
        await ask(client, conversation="tale", extra_body={"expected_position": 11})
    assert code_of(told) == "position_mismatch"
    await ours.delete_session("tale")
    with pytest.raises(openai.NotFoundError) as gone:
        await ask(client, conversation="tale")
    assert code_of(gone) == "session_deleted"


@pytest.mark.parametrize("kind", ["first", "newest", "older", "conversation"])
async def test_a_key_makes_a_request_happen_once(client: openai.AsyncOpenAI, ours: AsyncClient, kind: str) -> None:
    """Its repeats get the first answer whole, one after the other and at once."""
    options: dict[str, Any] = {"temperature": 5, "extra_headers": {"Idempotency-Key": "k"}, "metadata": {"a": "b"}}
    if kind in ("newest", "older"):
        options["previous"] = (await ask(client)).id
    if kind == "older":
        await ask(client, "x", options["previous"])
    if kind == "conversation":
        options["conversation"] = "tale"
    num_sessions = len([row async for row in ours.list_sessions()])
    made = await asyncio.gather(*[ask(client, **options) for _ in range(3)])
    made += [await ask(client, **options)]
    assert all(one == made[0] for one in made)
    assert len([row async for row in ours.list_sessions()]) == num_sessions + (kind != "newest")
    with pytest.raises(openai.BadRequestError) as told:
        await ask(client, "another", **options)
    assert told.value.param == "Idempotency-Key"


async def test_a_key_that_begins_something_else_too_loses_no_answer(client: openai.AsyncOpenAI) -> None:
    """The request that went on by it first still gets its own answer."""
    first, key = await ask(client), {"Idempotency-Key": "k"}
    made = await ask(client, "x", first.id, extra_headers=key)
    begun = await ask(client, "y", extra_headers=key)
    assert await ask(client, "x", first.id, extra_headers=key) == made
    assert await ask(client, "y", extra_headers=key) == begun
    with pytest.raises(openai.BadRequestError):
        await ask(client, "z", first.id, extra_headers=key)


async def test_the_clients_own_retries_are_one_request(server: Running) -> None:
    """With a key; it sends the same one again when an answer is lost."""
    async with losing_first() as http:
        base = f"http://{server.openai_address}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=2, http_client=http) as client:
            made = await ask(client, extra_headers={"Idempotency-Key": "k"})
    assert extra(made, "position") == 11
    assert await server.store.num_live() == 1


async def test_a_response_is_read_again(client: openai.AsyncOpenAI) -> None:
    """As it was, while its answer is kept; later ones push it out."""
    one = await ask(client, metadata={"a": "b"}, user="u")
    two = await ask(client, " you", one.id)
    for response in (one, two):
        found = await client.responses.retrieve(response.id)
        assert Response.model_validate_json(found.model_dump_json()) == response
    for _ in range(3):
        two = await ask(client, "x", two.id)
    with pytest.raises(openai.NotFoundError) as told:
        await client.responses.retrieve(one.id)
    assert code_of(told) == "response_not_found"
    with pytest.raises(openai.BadRequestError):
        await client.responses.retrieve(two.id, stream=True)
    with pytest.raises(openai.BadRequestError):
        await client.responses.retrieve(two.id, include=["message.output_text.logprobs"])


async def test_the_newest_deleted_ends_the_session(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """And with it the older ones."""
    one = await ask(client)
    two = await ask(client, " you", one.id)
    await client.responses.delete(two.id)
    assert [row async for row in ours.list_sessions()] == []
    for response in (one, two):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(response.id)


async def test_an_older_one_is_forgotten_alone(client: openai.AsyncOpenAI) -> None:
    """The session goes on from the newest."""
    one = await ask(client)
    two = await ask(client, " you", one.id)
    await client.responses.delete(one.id)
    for work in (client.responses.retrieve(one.id), client.responses.delete(one.id), ask(client, "x", one.id)):
        with pytest.raises(openai.NotFoundError):
            await work
    assert (await client.responses.retrieve(two.id)).output_text == two.output_text
    assert extra(await ask(client, "x", two.id), "session_id") == extra(one, "session_id")


async def test_a_restart_keeps_them(bundle: Path, tmp_path: Path) -> None:
    """On SQLite: the newest goes on, an older one forks, and answers are read."""
    settings = SETTINGS.model_copy(update={"store": f"sqlite:{tmp_path / 'sessions.db'}"})
    async with running(bundle, settings) as server, connect(server) as client:
        one = await ask(client, extra_headers={"Idempotency-Key": "k"})
        two = await ask(client, " you", one.id)
    async with running(bundle, settings) as server, connect(server) as client:
        assert await ask(client, extra_headers={"Idempotency-Key": "k"}) == one
        assert (await client.responses.retrieve(two.id)).output_text == two.output_text
        fork, last = await ask(client, " you", one.id), await ask(client, "x", two.id)
        assert fork.output_text == two.output_text
        assert extra(last, "session_id") == extra(one, "session_id") != extra(fork, "session_id")


async def test_other_owners_and_scopes(bundle: Path, tmp_path: Path) -> None:
    """A foreign id is as unknown as a wrong one. Who may generate alone goes on, and makes, reads and ends nothing."""
    (tmp_path / "principals.toml").write_text(PRINCIPALS)
    settings = SETTINGS.model_copy(update={"principals": tmp_path / "principals.toml"})
    async with running(bundle, settings) as server:
        ann, bob, cut = (connect(server, KEYS[name]) for name in ("ann", "bob", "cut"))
        async with ann, bob, cut:
            one = await ask(ann)
            for work in (ask(bob, "x", one.id), bob.responses.retrieve(one.id), bob.responses.delete(one.id)):
                with pytest.raises(openai.NotFoundError):
                    await work
            two = await ask(cut, " you", one.id)
            await ask(cut, store=False)
            refused = (ask(cut), ask(cut, "x", one.id), ask(cut, conversation="new"))
            for work in (*refused, cut.responses.retrieve(two.id), cut.responses.delete(two.id)):
                with pytest.raises(openai.PermissionDeniedError):
                    await work
            assert extra(await ask(ann, "x", two.id), "session_id") == extra(one, "session_id")
            assert await server.store.num_live() == 1
