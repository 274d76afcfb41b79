"""OpenAI's own client gets from the HTTP interface what the engine's sessions give: text, log-probabilities, streams,
sessions that remember, and errors that it knows."""

import asyncio
from collections.abc import AsyncIterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
import openai
import pytest
from openai.types import Completion
from tests.server.running_app import LOCAL

from carousel.app import Running, running
from carousel.bundle.tokenizer import TextDecoder
from carousel.client import AsyncClient
from carousel.identity.principals import digest
from carousel.settings import Settings


@pytest.fixture
async def ours(server: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc_address) as client:
        yield client


def check(completion: Completion) -> Completion:
    """The client itself only constructs; this validates."""
    return Completion.model_validate(completion.model_dump())


def ids_of(completion: Completion) -> list[int]:
    """Returns the tokens of the first choice: in this model, each is a byte."""
    found = completion.choices[0].logprobs
    assert found is not None
    spelled = [
        token.removeprefix("bytes:\\x") if len(token) > 1 else f"{ord(token):02x}" for token in found.tokens or ()
    ]
    return [int(one, 16) for one in spelled]


async def test_models(client: openai.AsyncOpenAI) -> None:
    """There is one, and it has a name."""
    (model,) = (await client.models.list()).data
    assert (await client.models.retrieve(model.id)).id == model.id == "tiny"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("another")


async def test_a_completion_is_what_grpc_gives(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """The same seed, the same text."""
    pieces = ours.generate("hello", max_tokens=12, temperature=0.8, top_p=0.9, seed=5)
    expected = "".join([piece.text async for piece in pieces])
    made = check(
        await client.completions.create(model="tiny", prompt="hello", max_tokens=12, temperature=0.8, top_p=0.9, seed=5)
    )
    assert made.choices[0].text == expected
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (5, 12, 17)
    assert made.object == "text_completion"
    assert made.id.startswith("cmpl-")


async def test_nulls_are_defaults(client: openai.AsyncOpenAI) -> None:
    """Some clients send every field."""
    null: Any = None
    made = await client.completions.create(
        model="tiny", prompt="hi", seed=null, logprobs=null, stop=null, suffix=null, logit_bias=null, n=null,
        best_of=null, max_tokens=null, stream_options=null, user=null,
    )  # fmt: skip
    assert made.usage is not None
    assert made.usage.completion_tokens == 16


async def test_prompts_are_texts_ids_and_lists_of_them(client: openai.AsyncOpenAI) -> None:
    """Choices are numbered prompt by prompt."""
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    one = (await client.completions.create(prompt="hello", **options)).choices[0].text
    other = (await client.completions.create(prompt=list(b"again"), **options)).choices[0].text
    for prompt in (["hello", "again"], [list(b"hello"), list(b"again")]):
        made = check(await client.completions.create(prompt=prompt, n=2, **options))
        assert [choice.text for choice in made.choices] == [one, one, other, other]
        assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
        assert made.usage is not None
        assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (10, 24)


async def test_a_stream_says_what_the_whole_answer_says(client: openai.AsyncOpenAI) -> None:
    """Its last chunk has the reason; usage comes in a chunk of its own, if it is asked for."""
    options: dict[str, Any] = {
        "model": "tiny",
        "prompt": "hello",
        "max_tokens": 30,
        "temperature": 0.7,
        "seed": 3,
        "n": 2,
    }
    whole = await client.completions.create(logprobs=2, **options)
    stream = await client.completions.create(stream=True, stream_options={"include_usage": True}, logprobs=2, **options)
    texts, reasons, usages, tokens = ["", ""], [], [], [0, 0]
    async for chunk in stream:
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += len((choice.logprobs and choice.logprobs.tokens) or ())
            reasons.append(choice.finish_reason)
    assert texts == [choice.text for choice in whole.choices]
    assert [reason for reason in reasons if reason is not None] == ["length", "length"]
    assert tokens == [30, 30]
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert usages[-1] == whole.usage


async def test_stops_end_the_text(client: openai.AsyncOpenAI) -> None:
    """A string, several strings, ids; the stop is not in the text."""
    options: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 80, "temperature": 1.5, "seed": 4}
    text = (await client.completions.create(**options)).choices[0].text
    stop = next(letter for letter in text[5:] if letter.isascii())
    for given in (stop, [stop, "never"]):
        choice = (await client.completions.create(stop=given, **options)).choices[0]
        assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
    by_id = await client.completions.create(extra_body={"stop_token_ids": [ord(stop)]}, **options)
    assert by_id.choices[0].finish_reason == "stop"


async def test_log_probabilities(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """Echoed tokens have what Score gives, to the last bit, and the likeliest in their place; so have others."""
    made = check(
        await client.completions.create(
            model="tiny", prompt="hello", max_tokens=4, temperature=0, logprobs=3, echo=True
        )
    )
    found = made.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert made.choices[0].text.startswith("hello")
    scored = [token async for piece in ours.score(ids_of(made)) for token in piece.tokens]
    assert found.token_logprobs[:5] == [token.log_probability for token in scored[:5]]
    assert found.token_logprobs == pytest.approx([token.log_probability for token in scored], abs=1e-5)
    decoder = TextDecoder()
    assert (
        found.text_offset == list(accumulate((len(decoder.push(bytes([one]))) for one in ids_of(made)), initial=0))[:-1]
    )
    for token, log_probability, top, rated in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, scored, strict=True
    ):
        assert top[token] == log_probability
        assert len(top) == (3 if rated.rank <= 3 else 4)
        assert (max(top.values()) == log_probability) == (rated.rank == 1)


async def test_bytes_that_are_no_text_have_names_of_their_own(client: openai.AsyncOpenAI) -> None:
    """Alternatives are keyed by text, and may not fall together."""
    made = await client.completions.create(model="tiny", prompt=[255, 254, 128], max_tokens=0, logprobs=1, echo=True)
    assert made.choices[0].logprobs is not None
    assert made.choices[0].logprobs.tokens == ["bytes:\\xff", "bytes:\\xfe", "bytes:\\x80"]


async def test_logprobs_zero_are_those_of_the_chosen_alone(client: openai.AsyncOpenAI) -> None:
    """Without alternatives."""
    made = await client.completions.create(model="tiny", prompt="a", max_tokens=2, logprobs=0)
    found = made.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert all(value < 0 for value in found.token_logprobs)
    assert found.top_logprobs is not None
    assert not any(found.top_logprobs)


async def test_echo_without_log_probabilities_is_the_prompt_before_the_text(client: openai.AsyncOpenAI) -> None:
    """Also in a stream."""
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 3, "temperature": 0, "echo": True}
    whole = (await client.completions.create(prompt="hello", **options)).choices[0].text
    stream = await client.completions.create(prompt=list(b"hello"), stream=True, **options)
    parts = [choice.text async for chunk in stream for choice in chunk.choices]
    assert parts[0] == "hello"
    assert "".join(parts) == whole


async def test_a_session_remembers(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """Two requests are one text; the answer tells where the session stands; gRPC sees the same session."""
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    one = await client.completions.create(prompt="hello", extra_body={"session_id": "s"}, logprobs=0, **options)
    two = await client.completions.create(prompt=" you", extra_headers={"x-session-id": "s"}, logprobs=0, **options)
    apart = await client.completions.create(prompt=[*b"hello", *ids_of(one), *b" you"], logprobs=0, **options)
    assert ids_of(two) == ids_of(apart)
    assert one.model_extra is not None
    assert two.model_extra is not None
    assert (one.model_extra["session_id"], one.model_extra["position"]) == ("s", 10)
    assert two.model_extra["position"] == 19
    assert (await ours.get_session("s")).position == 19


async def test_a_key_makes_a_request_happen_once(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """The second attempt gets the first one's answer. The key with another request is refused."""

    async def ask(prompt: str) -> str:
        made = await client.completions.create(
            model="tiny",
            prompt=prompt,
            max_tokens=5,
            extra_body={"session_id": "s"},
            extra_headers={"Idempotency-Key": "k"},
        )
        return made.choices[0].text

    assert await ask("hello") == await ask("hello")
    assert (await ours.get_session("s")).position == 10
    with pytest.raises(openai.APIStatusError):
        await ask("another")


async def test_a_position_that_is_not_the_expected_one_is_a_conflict(server: Running) -> None:
    """The client, which repeats conflicts by itself, is told not to."""
    num_requests = 0

    async def count(request: httpx.Request) -> None:
        nonlocal num_requests
        num_requests += 1

    http = httpx.AsyncClient(event_hooks={"request": [count]})
    async with openai.AsyncOpenAI(
        base_url=f"http://{server.openai_address}/v1", api_key="none", max_retries=3, http_client=http
    ) as client:
        await client.completions.create(model="tiny", prompt="a", extra_body={"session_id": "s"})
        num_requests = 0
        with pytest.raises(openai.ConflictError) as told:
            await client.completions.create(
                model="tiny", prompt="a", extra_body={"session_id": "s", "expected_position": 7}
            )
    assert num_requests == 1
    assert isinstance(told.value.body, dict)
    assert told.value.body["code"] == "position_mismatch"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "n": 2}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"logprobs": 65}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"prompt": [[1], "x"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": [999]}, "prompt"),
        ({"prompt": "x" * 600_000}, "prompt"),
        ({"extra_body": {"unheard_of": 1}}, "unheard_of"),
        ({"extra_body": {"session_id": "s"}, "prompt": ["a", "b"]}, "prompt"),
        ({"extra_body": {"session_id": "a/b"}}, "session_id"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_what_is_wrong_is_named(client: openai.AsyncOpenAI, options: dict[str, Any], param: str) -> None:
    """With OpenAI's error object."""
    with pytest.raises(openai.BadRequestError) as told:
        await client.completions.create(**({"model": "tiny", "prompt": "a"} | options))
    assert told.value.param == param
    assert told.value.type == "invalid_request_error"


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="another", prompt="a")


async def test_an_ended_session_is_not_found(client: openai.AsyncOpenAI, ours: AsyncClient) -> None:
    """It does not begin anew in silence."""
    await client.completions.create(model="tiny", prompt="a", extra_body={"session_id": "s"})
    await ours.delete_session("s")
    with pytest.raises(openai.NotFoundError) as told:
        await client.completions.create(model="tiny", prompt="a", extra_body={"session_id": "s"})
    assert isinstance(told.value.body, dict)
    assert told.value.body["code"] == "session_deleted"


async def test_the_blocking_client(server: Running) -> None:
    """It is what most programs use."""

    def ask() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"http://{server.openai_address}/v1", api_key="none") as client:
            options: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 8, "temperature": 0}
            whole = client.completions.create(**options).choices[0].text
            stream = client.completions.create(stream=True, **options)
            return whole, "".join(choice.text for chunk in stream for choice in chunk.choices)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed


async def test_a_client_that_goes_frees_its_lane(server: Running, client: openai.AsyncOpenAI) -> None:
    """At the next step."""
    stream = await client.completions.create(model="tiny", prompt="hello", max_tokens=16_000, stream=True)
    await anext(aiter(stream))
    assert server.engine.num_busy_lanes == 1
    await stream.close()
    async with asyncio.timeout(20):
        while server.engine.num_busy_lanes:
            await asyncio.sleep(0.01)


async def test_a_client_that_gives_up_an_answer_frees_its_lane(server: Running) -> None:
    """Also when the answer would come in one piece."""
    async with httpx.AsyncClient() as http:
        body = {"prompt": "hello", "max_tokens": 16_000}
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"http://{server.openai_address}/v1/completions", json=body, timeout=0.3)
    async with asyncio.timeout(20):
        while server.engine.num_busy_lanes:
            await asyncio.sleep(0.01)


async def test_the_tokenizer_is_as_the_harness_asks(server: Running) -> None:
    """lm-evaluation-harness looks for these routes."""
    async with httpx.AsyncClient(base_url=f"http://{server.openai_address}") as http:
        assert (await http.get("/tokenizer_info")).json()["eos_token"] == "\n"
        asked = {"prompt": "hé", "add_special_tokens": False}
        assert (await http.post("/tokenize", json=asked)).json()["tokens"] == [104, 195, 169]
        assert (await http.post("/detokenize", json={"tokens": [104, 195, 169]})).json() == {"prompt": "hé"}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example"}, 403, "host_not_allowed"),
        ({"host": "evil.example:80"}, 403, "host_not_allowed"),
        ({"origin": "http://evil.example"}, 403, "origin_not_allowed"),
        ({"origin": "null"}, 403, "origin_not_allowed"),
        ({"content-type": "text/plain"}, 415, "content_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "content_type"),
    ],
)
async def test_no_website_can_drive_the_server(
    server: Running, headers: dict[str, str], status: int, code: str
) -> None:
    """A browser sends other names, other origins, and forms."""
    async with httpx.AsyncClient() as http:
        given = {"content-type": "application/json"} | headers
        url = f"http://{server.openai_address}/v1/completions"
        answer = await http.post(url, content=b'{"prompt": "a"}', headers=given)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "access-control-allow-origin" not in answer.headers


async def test_its_own_page_may_and_so_may_named_hosts(bundle: Path) -> None:
    """The origin of the server itself passes, and a name in openai_hosts."""
    settings = Settings(**LOCAL, openai_listen="127.0.0.1:0", openai_hosts=("model.example",))
    async with running(bundle, settings) as server, httpx.AsyncClient() as http:
        address = server.openai_address
        for headers in ({"origin": f"http://{address}"}, {"host": "Model.example"}, {"host": "localhost:1"}):
            answer = await http.post(f"http://{address}/v1/completions", json={"prompt": "a"}, headers=headers)
            assert answer.status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"[" * 100_000, b'{"prompt": "\xff"}', b"{}" * 600_000])
async def test_a_body_that_is_none_is_refused(server: Running, content: bytes) -> None:
    """With a status of its own, never a 500."""
    async with httpx.AsyncClient() as http:
        url = f"http://{server.openai_address}/v1/completions"
        answer = await http.post(url, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "body"


async def test_other_paths_are_not_found_in_the_same_form(server: Running) -> None:
    async with httpx.AsyncClient() as http:
        for method, path in (("GET", "/nothing"), ("GET", "/v1/completions"), ("POST", "/v1/models")):
            answer = await http.request(method, f"http://{server.openai_address}{path}", json={})
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"


async def test_it_is_off_unless_it_has_an_address(bundle: Path) -> None:
    async with running(bundle, Settings(**LOCAL)) as server:
        assert server.openai_address == ""
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://{server.http_address}/v1/models")
            assert answer.status_code == 404
        async with grpc.aio.insecure_channel(server.grpc_address):
            pass


async def test_a_token_is_what_the_client_calls_its_key(bundle: Path, tmp_path: Path) -> None:
    """Who may generate and may not make sessions uses those that there are."""
    key, other = "k" * 40, "o" * 40
    principals = f"""
[[principal]]
name = "generates"
tokens = ["{digest(key)}"]
scopes = ["generate"]
owner = "team"

[[principal]]
name = "makes"
tokens = ["{digest(other)}"]
scopes = ["generate", "sessions"]
owner = "team"
"""
    (tmp_path / "principals.toml").write_text(principals)
    settings = Settings(**LOCAL, openai_listen="127.0.0.1:0", principals=tmp_path / "principals.toml")
    async with running(bundle, settings) as server:

        async def ask(token: str) -> None:
            base = f"http://{server.openai_address}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key=token, max_retries=0) as client:
                await client.completions.create(model="tiny", prompt="a", extra_body={"session_id": "s"})

        for wrong, error in (("x" * 40, openai.AuthenticationError), (key, openai.PermissionDeniedError)):
            with pytest.raises(error):
                await ask(wrong)
        await ask(other)
        await ask(key)
