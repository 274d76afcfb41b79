"""What HTTP callers get wrong is refused by name, before anything is made of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.server.running_app import LOCAL

from carousel.app import Running, running
from carousel.client import AsyncClient
from carousel.errors import InvalidRequest
from carousel.identity.principals import digest
from carousel.rpc.errors import code_of
from carousel.sessions import facts
from carousel.settings import Settings
from carousel.web import door

JSON = {"content-type": "application/json"}
HALF = "a\ud83d"


async def post(http: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await http.post(path, content=json.dumps(body).encode(), headers=JSON)


async def test_wrong_values_are_named(http: httpx.AsyncClient) -> None:
    """Integers have bounds, and no other type passes for a number or a truth value."""
    huge = 10**400
    wrong: list[tuple[str, Any]] = [("n", 2_000_000), ("n", True), ("n", "1"), ("best_of", True), ("seed", -1)]
    wrong += [("seed", 2**64), ("temperature", True), ("temperature", "1"), ("temperature", huge), ("echo", "yes")]
    wrong += [("stream", 1), ("top_k", True), ("top_k", 1.0), ("logprobs", 10**9), ("prompt", [huge])]
    wrong += [("stop_token_ids", [huge]), ("stop_token_ids", ["1"]), ("logit_bias", {"1": True})]
    wrong += [("logit_bias", {key: 1}) for key in ("01", "+1", "1.0", " 1", "1_0", "-1", "9" * 400)]
    names = ("n", "best_of", "max_tokens", "logprobs", "seed", "top_k", "expected_position")
    for name, value in wrong + [(name, huge) for name in names]:
        answer = await post(http, "/v1/completions", **({"prompt": "a", "max_tokens": 1} | {name: value}))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name), (name, value)


async def test_the_largest_seed_passes(http: httpx.AsyncClient) -> None:
    answer = await post(http, "/v1/completions", prompt="a", max_tokens=1, seed=2**64 - 1)
    assert answer.status_code == 200


async def test_half_a_surrogate_pair_is_refused_by_name(http: httpx.AsyncClient) -> None:
    """JSON can spell it, and no text of ours has it."""
    for name, value in (("prompt", HALF), ("prompt", [HALF]), ("stop", [HALF]), ("session_id", HALF), ("model", HALF)):
        answer = await post(http, "/v1/completions", **({"prompt": "a"} | {name: value}))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert (await post(http, "/tokenize", prompt=HALF)).json()["error"]["param"] == "prompt"
    assert (await post(http, "/v1/completions", **{HALF: 1})).status_code == 400
    whole = await post(http, "/tokenize", prompt="\U0001f600")
    assert whole.json()["count"] == 4


def test_no_text_stops_a_log_line() -> None:
    """Neither the session's name nor the error's text."""
    assert facts.of_session(door.Named(HALF))["session"]
    assert code_of(InvalidRequest(HALF, HALF)) == "INVALID_ARGUMENT"


async def test_names_are_those_of_http(http: httpx.AsyncClient) -> None:
    """An unknown key is shortened."""
    error = (await post(http, "/v1/completions", **{"k" * 5000: 1})).json()["error"]
    assert len(error["param"]) == 100
    assert len(error["message"]) < 200
    assert (await post(http, "/detokenize", tokens=[999])).json()["error"]["param"] == "tokens"
    key = {"idempotency-key": "k"}
    for prompt, status in (("a", 200), ("b", 400)):
        answer = await http.post("/v1/completions", json={"prompt": prompt, "session_id": "s"}, headers=key)
        assert answer.status_code == status
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert "request_id" not in answer.text


async def test_a_refused_request_makes_no_session(server: Running, http: httpx.AsyncClient) -> None:
    """Nor does one that expects a session to have come further."""
    for wrong in ({"temperature": -1}, {"max_tokens": 10**9}, {"prompt": [999]}, {"prompt": "x" * 600_000}):
        answer = await post(http, "/v1/completions", **({"prompt": "a", "session_id": "s"} | wrong))
        assert answer.status_code == 400
    answer = await post(http, "/v1/completions", prompt="a", session_id="s", expected_position=7)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")
    async with AsyncClient(server.grpc_address) as ours:
        assert [one async for one in ours.list_sessions()] == []
    answer = await post(http, "/v1/completions", prompt="a", session_id="s", expected_position=0)
    assert answer.status_code == 200


async def test_a_streamed_echo_is_refused_before_it_begins(http: httpx.AsyncClient) -> None:
    """With a status of its own."""
    for wrong in ({"temperature": -1}, {"prompt": ["a", "x" * 600_000]}, {"logprobs": 64, "prompt": "x" * 60_000}):
        answer = await post(http, "/v1/completions", **({"prompt": "a", "echo": True, "stream": True} | wrong))
        assert answer.status_code == 400


async def test_a_malformed_origin_is_another_page(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/completions", json={"prompt": "a"}, headers={"origin": "http://["})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")


async def test_offsets_count_the_shown_text(http: httpx.AsyncClient) -> None:
    """A character counts where it becomes complete; the generated text begins behind the prompt."""
    asked = {"prompt": "hé!", "max_tokens": 2, "logprobs": 1, "echo": True}
    found = (await post(http, "/v1/completions", **asked)).json()["choices"][0]["logprobs"]
    assert found["text_offset"][:5] == [0, 1, 1, 2, 3]


async def test_a_body_must_arrive(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call does not wait forever."""
    monkeypatch.setattr(door, "BODY_SECONDS", 0.2)
    host, _, port = server.openai_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = ("POST /v1/completions HTTP/1.1", f"host: {host}", "content-type: application/json", "content-length: 9")
    writer.write(("\r\n".join(lines) + "\r\n\r\n{").encode())
    async with asyncio.timeout(5):
        answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 408 ")
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["param"] == "body"


async def test_scored_echoes_need_the_scope_of_score(bundle: Path, tmp_path: Path) -> None:
    """They give what Score gives."""
    key = "k" * 40
    (tmp_path / "principals.toml").write_text(
        f'[[principal]]\nname = "one"\ntokens = ["{digest(key)}"]\nscopes = ["generate"]\nowner = "team"\n'
    )
    settings = Settings(**LOCAL, openai_listen="127.0.0.1:0", principals=tmp_path / "principals.toml")
    headers = {"authorization": f"Bearer {key}"}
    async with running(bundle, settings) as server, httpx.AsyncClient(headers=headers) as http:
        for more, status in (({}, 200), ({"logprobs": 1}, 403)):
            body = {"prompt": "a", "echo": True, "max_tokens": 1} | more
            answer = await http.post(f"http://{server.openai_address}/v1/completions", json=body)
            assert answer.status_code == status
