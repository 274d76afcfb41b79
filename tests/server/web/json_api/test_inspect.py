"""States over HTTP are those of gRPC, and are shown only where the server's setting allows it."""

import base64
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
import numpy as np
import pytest
from tests.server.web.json_api.conftest import SETTINGS

from carousel.app import Running, running
from carousel.client import AsyncClient
from carousel.identity.principals import digest
from carousel.settings import Settings
from carousel.v1 import sessions_pb2, sessions_pb2_grpc, types_pb2
from carousel.web.json_api import inspect_handler


@pytest.fixture
def settings() -> Settings:
    return SETTINGS.model_copy(update={"inspect": True})


def values_of(tensor: dict[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(tensor["values"]), "<f4").reshape(-1, *tensor["shape"])


async def test_states_are_those_of_grpc(http: httpx.AsyncClient, ours: AsyncClient, server: Running) -> None:
    """Before the first token and after each, bit for bit."""
    answer = (await http.post("/inspect", json={"text": "abc", "num_candidates": 2})).json()
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        stub: Any = sessions_pb2_grpc.SessionsStub(channel)
        request = sessions_pb2.InspectSessionRequest(input=types_pb2.Input(text="abc"), num_candidates=2)
        theirs = [message async for message in stub.InspectSession(request)]
    assert [one["text"] for one in answer["tokens"]] == ["a", "b", "c"]
    assert [one["rank"] for one in answer["tokens"]] == [one.token.rank for one in theirs[1:]]
    assert [len(one["candidates"]) for one in answer["tokens"]] == [2, 2, 2]
    assert answer["position"] == 3
    for place, tensor in enumerate(answer["tensors"]):
        expected = b"".join(message.values[place] for message in theirs)
        assert base64.b64decode(tensor["values"]) == expected
        assert values_of(tensor).shape == (4, 12)


async def test_a_session_is_read_from_any_point_and_left_alone(http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """Some of the tensors may be enough."""
    await ours.create_session("s")
    for text in ("ab", "cd"):
        await ours.predict(text, session_id="s")
    whole = (await http.post("/inspect", json={"text": "abx"})).json()
    body = {"text": "x", "session_id": "s", "position": 2, "tensors": ["c"]}
    answer = (await http.post("/inspect", json=body)).json()
    (tensor,) = answer["tensors"]
    assert (tensor["name"], answer["session_id"], answer["position"]) == ("c", "s", 3)
    assert (values_of(tensor) == values_of(whole["tensors"][1])[2:]).all()
    assert (await ours.get_session("s")).position == 4


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"text": "x" * 1025}, 400, "input"),
        ({"text": "a", "tensors": ["nothing"]}, 400, "tensors"),
        ({"text": "a", "position": 1}, 400, "point"),
        ({"text": "a", "position": 1, "checkpoint": "c"}, 400, "checkpoint"),
        ({"text": "a", "session_id": "nobody"}, 404, None),
        ({"text": "a", "num_candidates": 65}, 400, "num_candidates"),
    ],
)
async def test_wrong_values_are_named(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = await http.post("/inspect", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


async def test_an_answer_has_a_bound(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tensors of 12 floats: 96 bytes a moment."""
    monkeypatch.setattr(inspect_handler, "MAX_VALUE_BYTES", 4 * 96)
    assert (await http.post("/inspect", json={"text": "abc"})).status_code == 200
    answer = await http.post("/inspect", json={"text": "abcd"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tensors")


async def test_a_session_needs_the_scope_of_sessions(bundle: Path, tmp_path: Path) -> None:
    """Whoever may only score reads from the start alone."""
    token = "crl_" + "x" * 43
    (tmp_path / "p.toml").write_text(f'[[principal]]\nname = "a"\ntokens = ["{digest(token)}"]\nscopes = ["score"]\n')
    settings = SETTINGS.model_copy(update={"inspect": True, "principals": tmp_path / "p.toml"})
    async with running(bundle, settings) as server, httpx.AsyncClient() as http:
        http.headers["authorization"] = f"Bearer {token}"
        for body, status in (({"text": "a"}, 200), ({"text": "a", "session_id": "s"}, 403)):
            answer = await http.post(f"http://{server.openai_address}/carousel/v1/inspect", json=body)
            assert answer.status_code == status


async def test_it_is_off_by_default(bundle: Path) -> None:
    """The refusal names the setting."""
    async with running(bundle, SETTINGS) as server, httpx.AsyncClient() as http:
        answer = await http.post(f"http://{server.openai_address}/carousel/v1/inspect", json={"text": "a"})
        assert answer.status_code == 403
        assert "inspect=true" in answer.json()["error"]["message"]
