"""OpenAI's own client holds conversations over HTTP where the bundle says how they become text: an answer is what the
model writes after that text, whole or streamed; without a template the refusal says where to go."""

import asyncio
import math
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai.types.chat import ChatCompletion
from tests import bundles
from tests.server.running_app import LOCAL
from tests.server.web.openai.conftest import connect

from carousel.app import Running, running
from carousel.bundle.chat import ChatFormat
from carousel.identity.principals import digest
from carousel.settings import Settings

SETTINGS = Settings(**LOCAL, openai_listen="127.0.0.1:0")
FORMAT = ChatFormat(
    "{% for message in messages %}{% if message.role == 'tool' or not message.content %}"
    "{{ raise_exception('say something') }}{% endif %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "assistant:",
    ("\nuser:", "\nsystem:"),
)
TALK: list[Any] = [
    {"role": "developer", "content": "be short"},
    {"role": "user", "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "you"}]},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "again"},
]
TEXT = "system: be short\nuser: hello you\nassistant: hi\nuser: again\nassistant:"


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("talking")
    bundles.write_bundle(directory, chat=FORMAT)
    return directory


@pytest.fixture
def served_bundle(talking: Path) -> Path:
    return talking


async def ask(client: openai.AsyncOpenAI, **options: Any) -> ChatCompletion:
    """Returns the answer, validated: the client itself only constructs."""
    made = await client.chat.completions.create(**({"model": "tiny", "messages": TALK} | options))
    return ChatCompletion.model_validate(made.model_dump())


async def test_an_answer_is_what_follows_the_text(client: openai.AsyncOpenAI) -> None:
    """The same seed and options give the same text as a completion of it, choice by choice."""
    options: dict[str, Any] = {
        "max_tokens": 40, "temperature": 0.9, "top_p": 0.95, "seed": 5, "n": 3, "logit_bias": {"32": 2},
        "presence_penalty": 0.3, "frequency_penalty": 0.2,
        "extra_body": {"top_k": 50, "min_p": 0.001, "repetition_penalty": 1.1, "stop_token_ids": [0]},
    }  # fmt: skip
    plain = await client.completions.create(model="tiny", prompt=TEXT, stop=list(FORMAT.stops), **options)
    made = await ask(client, **options)
    assert [choice.message.content for choice in made.choices] == [choice.text for choice in plain.choices]
    assert [choice.finish_reason for choice in made.choices] == [choice.finish_reason for choice in plain.choices]
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert {choice.message.role for choice in made.choices} == {"assistant"}
    assert made.usage == plain.usage
    assert made.usage is not None
    assert made.usage.prompt_tokens == len(TEXT)
    assert (made.object, made.model, made.id[:9]) == ("chat.completion", "tiny", "chatcmpl-")


async def test_a_stream_says_what_the_whole_answer_says(client: openai.AsyncOpenAI) -> None:
    """Each choice begins with its role and ends with a reason alone; usage comes by itself, if it is asked for."""
    options: dict[str, Any] = {"max_tokens": 30, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = await ask(client, **options)
    stream = await client.chat.completions.create(
        model="tiny", messages=TALK, stream=True, stream_options={"include_usage": True}, **options
    )
    chunks = [chunk async for chunk in stream]
    for choice in whole.choices:
        parts = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert [one.delta.role for one in parts] == ["assistant", *[None] * (len(parts) - 1)]
        assert "".join(one.delta.content or "" for one in parts) == choice.message.content
        assert [one.finish_reason for one in parts] == [*[None] * (len(parts) - 1), choice.finish_reason]
        assert parts[-1].delta.content is None
        assert choice.logprobs is not None
        content = [one for part in parts if part.logprobs is not None for one in part.logprobs.content or ()]
        assert content == choice.logprobs.content
    assert {(chunk.object, chunk.id) for chunk in chunks} == {("chat.completion.chunk", chunks[0].id)}
    assert [chunk.usage for chunk in chunks] == [*[None] * (len(chunks) - 1), whole.usage]


async def test_the_clients_own_reading_of_a_stream(client: openai.AsyncOpenAI) -> None:
    """Its helper, which puts the chunks together, gets the whole answer. It wants answers that end by themselves."""
    options: dict[str, Any] = {"max_tokens": 80, "seed": 1, "logprobs": True}
    text = (await ask(client, **options)).choices[0].message.content or ""
    options["stop"] = next(letter for letter in text[20:] if letter.isascii() and letter not in text[:20])
    whole = (await ask(client, **options)).choices[0]
    assert whole.finish_reason == "stop"
    assert whole.message.content
    async with client.chat.completions.stream(model="tiny", messages=TALK, **options) as stream:
        final = (await stream.get_final_completion()).choices[0]
    assert (final.message.content, final.finish_reason) == (whole.message.content, "stop")
    assert final.logprobs is not None
    assert whole.logprobs is not None
    assert final.logprobs.content == whole.logprobs.content


async def test_log_probabilities(client: openai.AsyncOpenAI) -> None:
    """They are those of a completion, in chat's form, with each token's bytes and as many alternatives as asked."""
    made = await ask(client, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3)
    plain = await client.completions.create(model="tiny", prompt=TEXT, max_tokens=12, temperature=0, logprobs=3)
    assert made.choices[0].logprobs is not None
    assert plain.choices[0].logprobs is not None
    content = made.choices[0].logprobs.content
    assert content is not None
    assert [one.token for one in content] == plain.choices[0].logprobs.tokens
    assert [one.logprob for one in content] == plain.choices[0].logprobs.token_logprobs
    for one in content:
        assert one.bytes is not None
        assert len(one.bytes) == 1
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].token == one.token
        assert one.top_logprobs[0].logprob == one.logprob
        assert sum(math.exp(other.logprob) for other in one.top_logprobs) <= 1
    bare = await ask(client, max_tokens=3, logprobs=True)
    assert bare.choices[0].logprobs is not None
    assert [one.top_logprobs for one in bare.choices[0].logprobs.content or ()] == [[], [], []]
    assert (await ask(client, max_tokens=3)).choices[0].logprobs is None


async def test_stops_are_the_templates_and_the_clients(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    """Either ends the answer, and is not part of it."""
    options: dict[str, Any] = {"max_tokens": 80, "temperature": 1.5, "seed": 4}
    text = (await ask(client, **options)).choices[0].message.content
    assert text is not None
    stop = next(letter for letter in text[5:] if letter.isascii())
    for given in (stop, [stop, "never"]):
        choice = (await ask(client, stop=given, **options)).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")
    bundles.write_bundle(tmp_path, chat=ChatFormat(FORMAT.template, (stop,)))
    async with running(tmp_path, SETTINGS) as other, connect(other) as its:
        choice = (await ask(its, **options)).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")


async def test_the_length_has_two_names_and_a_default(client: openai.AsyncOpenAI, talking: Path) -> None:
    """What is not asked for is bounded by the server's limits too: it is no error."""
    for asked in ({"max_tokens": 7}, {"max_completion_tokens": 7}, {"max_tokens": 7, "max_completion_tokens": 7}):
        made = await ask(client, **asked)
        assert made.usage is not None
        assert made.usage.completion_tokens == 7
    assert (await ask(client)).usage.completion_tokens == 1024  # type: ignore[union-attr]
    bounded = Settings(**LOCAL, openai_listen="127.0.0.1:0", max_generated_tokens=50, max_answer_items=60)
    async with running(talking, bounded) as server, connect(server) as its:
        assert (await ask(its)).usage.completion_tokens == 50  # type: ignore[union-attr]
        assert (await ask(its, n=2, logprobs=True)).usage.completion_tokens == 30  # type: ignore[union-attr]


async def test_nulls_and_what_says_nothing_are_defaults(client: openai.AsyncOpenAI) -> None:
    """Some clients send every field, and give back the messages that they got."""
    names = (
        "stop seed logprobs top_logprobs n tools tool_choice functions audio max_completion_tokens stream_options user"
    )
    answered: Any = (await ask(client, max_tokens=5, temperature=0)).choices[0].message.model_dump()
    nulls: dict[str, Any] = dict.fromkeys(names.split())
    extra: Any = {"response_format": {"type": "text"}, "modalities": ["text"], "safety_identifier": "x"}
    made = await ask(client, messages=[*TALK, answered, TALK[-1]], max_tokens=2, extra_body=extra, **nulls)
    assert made.usage is not None
    assert made.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "ann"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 600_000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 70_000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 1025}, "messages"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"max_tokens": 20_000}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 65}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["x"] * 15}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"extra_body": {"prompt": "x"}}, "prompt"),
        ({"extra_body": {"echo": True}}, "echo"),
        ({"extra_body": {"session_id": "s"}}, "session_id"),
        ({"extra_headers": {"x-session-id": "s"}}, "session_id"),
    ],
)
async def test_what_is_wrong_is_named(client: openai.AsyncOpenAI, options: dict[str, Any], param: str) -> None:
    """With OpenAI's error object, before anything is sent of a stream too."""
    for is_streamed in (False, True)[: 1 if param == "stream_options" else 2]:
        asked: dict[str, Any] = {"model": "tiny", "messages": TALK, "stream": is_streamed}
        with pytest.raises(openai.BadRequestError) as told:
            await client.chat.completions.create(**(asked | options))
        assert told.value.param == param
        assert told.value.type == "invalid_request_error"


async def test_errors_say_which_message(client: openai.AsyncOpenAI) -> None:
    """By its number, and with the template's own words; a session's user is shown where sessions are."""
    with pytest.raises(openai.BadRequestError, match=r"messages: 1\.content: a part must be a text"):
        await ask(client, messages=[TALK[0], {"role": "user", "content": [{"type": "file"}]}])
    with pytest.raises(openai.BadRequestError, match=r"messages: 0\.name: is not a parameter"):
        await ask(client, messages=[{"role": "user", "content": "x", "name": "ann"}])
    with pytest.raises(openai.BadRequestError, match="messages: say something"):
        await ask(client, messages=[{"role": "user", "content": ""}])
    with pytest.raises(openai.BadRequestError, match="/v1/responses or /v1/completions"):
        await ask(client, extra_body={"session_id": "s"})


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await ask(client, model="another")


async def test_without_a_template_there_is_no_chat(bundle: Path) -> None:
    """The refusal names what the model does instead."""
    async with running(bundle, SETTINGS) as server, connect(server) as client:
        for is_streamed in (False, True):
            with pytest.raises(openai.BadRequestError, match="/v1/completions") as told:
                await client.chat.completions.create(model="tiny", messages=TALK, stream=is_streamed)
            assert (told.value.code, told.value.param) == ("chat_template_missing", "messages")


async def test_the_blocking_client(server: Running) -> None:
    """It is what most programs use. Long conversations are made into text aside."""
    long = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}] * 400

    def talk() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"http://{server.openai_address}/v1", api_key="none") as client:
            options: dict[str, Any] = {"model": "tiny", "messages": long, "max_tokens": 8, "temperature": 0}
            whole = client.chat.completions.create(**options).choices[0].message.content
            stream = client.chat.completions.create(stream=True, **options)
            return whole, "".join(one.delta.content or "" for chunk in stream for one in chunk.choices)

    whole, streamed = await asyncio.to_thread(talk)
    assert whole == streamed


async def test_a_client_that_goes_frees_its_lane(server: Running, client: openai.AsyncOpenAI) -> None:
    """At the next step, whether it reads a stream or waits for a whole answer."""
    stream = await client.chat.completions.create(model="tiny", messages=TALK, max_tokens=16_000, stream=True)
    await anext(aiter(stream))
    assert server.engine.num_busy_lanes == 1
    await stream.close()
    url = f"http://{server.openai_address}/v1/chat/completions"
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(url, json={"messages": TALK, "max_tokens": 16_000}, timeout=0.3)
    async with asyncio.timeout(20):
        while server.engine.num_busy_lanes:
            await asyncio.sleep(0.01)


async def test_it_takes_the_scope_of_generation(talking: Path, tmp_path: Path) -> None:
    """As completions do."""
    keys = {scope: scope * 10 for scope in ("generate", "sessions")}
    entries = [
        f'[[principal]]\nname = "{scope}"\ntokens = ["{digest(key)}"]\nscopes = ["{scope}"]\n'
        for scope, key in keys.items()
    ]
    (tmp_path / "principals.toml").write_text("\n".join(entries))
    settings = Settings(**LOCAL, openai_listen="127.0.0.1:0", principals=tmp_path / "principals.toml")
    async with running(talking, settings) as server:
        async with connect(server, keys["generate"]) as client:
            assert (await ask(client, max_tokens=3)).usage is not None
        async with connect(server, keys["sessions"]) as client:
            with pytest.raises(openai.PermissionDeniedError):
                await ask(client, max_tokens=3)
