"""What a response cannot be asked for is refused by name, before anything is made of it."""

import json
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
from tests.server.running_app import LOCAL

from carousel.app import Running
from carousel.settings import Settings
from carousel.web.openai.response_ids import PREFIX

HALF = "a\ud83d"
USER = {"role": "user", "content": "a"}


@pytest.fixture
def settings() -> Settings:
    return Settings(**LOCAL, openai_listen="127.0.0.1:0", max_generated_tokens=50)


async def post(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    content = json.dumps({"input": "a", "max_output_tokens": 1} | body).encode()
    return await http.post("/v1/responses", content=content, headers={"content-type": "application/json"})


WRONG: list[tuple[str, Any]] = [
    ("max_output_tokens", 0),
    ("max_output_tokens", -1),
    ("max_output_tokens", 51),
    ("max_output_tokens", 10**400),
    ("max_output_tokens", "1"),
    ("max_output_tokens", True),
    ("temperature", -1),
    ("temperature", "1"),
    ("temperature", 10**400),
    ("top_p", 0),
    ("top_k", 1.0),
    ("seed", -1),
    ("seed", 2**64),
    ("min_p", 2),
    ("repetition_penalty", 0),
    ("stop", ["x"] * 17),
    ("stop", [""]),
    ("stop_token_ids", [999]),
    ("stream", 1),
    ("store", "yes"),
    ("input", 7),
    ("input", {"role": "user"}),
    ("input", ["a"]),
    ("input", [USER | {"name": "x"}]),
    ("input", [USER | {"role": "tool"}]),
    ("input", [USER | {"role": "system"}]),
    ("input", [USER | {"role": "developer"}]),
    ("input", [USER, USER | {"role": "assistant"}]),
    ("input", [USER | {"content": 1}]),
    ("input", [USER | {"content": [{"type": "input_image", "image_url": "x"}]}]),
    ("input", [{"type": "function_call_output", "call_id": "c", "output": "x"}]),
    ("input", [{"type": "item_reference", "id": "msg_1"}]),
    ("input", [USER] * 5000),
    ("input", "x" * 600_000),
    ("input", HALF),
    ("input", [USER | {"content": HALF}]),
    ("instructions", "be kind"),
    ("tools", [{"type": "web_search"}]),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "name": "f"}),
    ("include", ["message.output_text.logprobs"]),
    ("top_logprobs", 3),
    ("background", True),
    ("reasoning", {"effort": "low"}),
    ("text", {"format": {"type": "json_object"}}),
    ("text", {"format": {"type": "json_schema", "name": "x", "schema": {}}}),
    ("text", {"verbosity": "high"}),
    ("truncation", "other"),
    ("service_tier", "flex"),
    ("prompt", {"id": "p"}),
    ("max_tool_calls", 3),
    ("unheard_of", 1),
    ("metadata", {"k": 1}),
    ("metadata", {"k" * 65: "v"}),
    ("metadata", {"k": "v" * 513}),
    ("metadata", {str(n): "v" for n in range(17)}),
    ("user", "u" * 513),
    ("conversation", "a/b"),
    ("conversation", {"id": "a b"}),
    ("conversation", {}),
    ("conversation", "c" * 200),
    ("expected_position", 3),
    ("stream_options", {"include_obfuscation": False}),
]


async def test_wrong_values_are_named(server: Running, http: httpx.AsyncClient) -> None:
    """With OpenAI's error object, and no session."""
    for name, value in WRONG:
        answer = await post(http, **{name: value})
        error = answer.json()["error"]
        told = (answer.status_code, error["param"], error["type"])
        assert told == (400, name, "invalid_request_error"), (name, str(value)[:100], error)
        assert len(answer.content) < 1000
    assert await server.store.num_live() == 0


async def test_what_contradicts_is_refused(http: httpx.AsyncClient) -> None:
    """A conversation says where to go on, and is kept."""
    one = (await post(http)).json()
    pairs: list[tuple[dict[str, Any], str]] = [
        ({"previous_response_id": one["id"], "conversation": "c"}, "previous_response_id"),
        ({"store": False, "conversation": "c"}, "store"),
        ({"previous_response_id": one["id"], "expected_position": 3}, "expected_position"),
    ]
    for body, param in pairs:
        answer = await post(http, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = await http.post("/v1/responses", json={"conversation": "c"}, headers={"x-session-id": "d"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "conversation")


async def test_a_message_says_what_is_wrong_with_an_item(http: httpx.AsyncClient) -> None:
    """Not that a list is no string."""
    message = (await post(http, input=[USER | {"role": "tool"}])).json()["error"]["message"]
    assert "assistant" in message
    message = (await post(http, input=[USER | {"role": "system"}])).json()["error"]["message"]
    assert "no chat template" in message


async def test_the_default_fits_the_limit(http: httpx.AsyncClient) -> None:
    """A request that names no number of tokens passes where fewer are allowed."""
    answer = await http.post("/v1/responses", json={"input": "a"})
    assert (answer.status_code, answer.json()["max_output_tokens"]) == (200, 50)


async def test_an_unknown_model_is_another_error(http: httpx.AsyncClient) -> None:
    """Than an unknown response."""
    one = (await post(http)).json()
    answer = await post(http, model="another", previous_response_id=one["id"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_hostile_ids_are_not_found(http: httpx.AsyncClient) -> None:
    """In the body and in the path."""
    long = PREFIX + "A" * 500
    for response_id in ("x", PREFIX, long, "resp_é", HALF, "../models", PREFIX + "AZO8nH8U6iraGY5owQOVNg"):
        answer = await post(http, previous_response_id=response_id)
        expected = (400, "invalid_request") if response_id == HALF else (404, "previous_response_not_found")
        assert (answer.status_code, answer.json()["error"]["code"]) == expected
        assert answer.json()["error"]["param"] == "previous_response_id"
        for method in ("GET", "DELETE"):
            path = f"/v1/responses/{quote(response_id, safe='', errors='replace')}"
            assert (await http.request(method, path)).status_code == 404
    assert (await post(http, previous_response_id="x" * 5000)).status_code == 404


async def test_other_methods_are_not_there(http: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/v1/responses"),
        ("POST", "/v1/responses/resp_x"),
        ("POST", "/v1/responses/x/cancel"),
    ):
        answer = await http.request(method, path, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_log_line_has_the_session_and_no_text(
    http: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for every other call."""
    made = (await post(http, input="marked", metadata={"k": "marked"})).json()
    await http.get(f"/v1/responses/{made['id']}")
    text = capsys.readouterr().out
    assert text.count("method=/v1/responses ") == 1
    assert "finish_reason=length method=/v1/responses num_generated_tokens=1 num_input_tokens=6" in text
    assert "method=/v1/responses/{id}" in text
    assert "marked" not in text
