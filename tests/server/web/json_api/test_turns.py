"""Predictions and scores over HTTP are those of gRPC, to the last bit, and advance the same sessions."""

import asyncio
import json
import math
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from carousel.client import AsyncClient
from carousel.sessions.requests import ScoreTotals, Standing
from carousel.web.json_api import shapes


async def post(http: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_prediction_is_that_of_grpc(http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """Candidates and words, for text and for tokens."""
    theirs = await ours.predict("Once up", k=5, word_prefix="", num_words=3)
    found = await post(http, "/predict", text="Once up", num_candidates=5, word_prefix="", num_words=3)
    assert [(one["id"], one["log_probability"]) for one in found["candidates"]] == [
        (one.id, one.log_probability) for one in theirs.candidates
    ]
    assert [(one["text"], np.float32(one["log_probability"])) for one in found["words"]] == [
        (one.text, np.float32(one.log_probability)) for one in theirs.words
    ]
    assert found["position"] == theirs.position == 7
    ids = [one.id for one in await ours.tokenize("Once up")]
    assert (await post(http, "/predict", tokens=ids, num_candidates=5))["candidates"] == found["candidates"]
    assert (await post(http, "/predict", text="a"))["words"] == []
    assert len((await post(http, "/predict", text="a"))["candidates"]) == 10


async def test_a_score_is_that_of_grpc(http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """Short ones, and long ones, which are written apart from the event loop."""
    for text in ("Once upon", "x" * 3000):
        pieces = [piece async for piece in ours.score(text, top_g=3)]
        tokens = [token for piece in pieces for token in piece.tokens]
        totals = pieces[-1].totals
        assert totals is not None
        found = await post(http, "/score", text=text, num_top=3, num_candidates=2)
        assert [
            (one["id"], one["text"], one["log_probability"], one["rank"], one["is_hit"]) for one in found["tokens"]
        ] == [(one.id, one.text, one.log_probability, one.rank, one.is_hit) for one in tokens]
        assert found["log_probability"] == totals.log_probability
        assert found["perplexity"] == totals.perplexity
        assert (found["num_tokens"], found["num_hits"]) == (totals.num_tokens, totals.num_hits)
        for one in found["tokens"]:
            assert len(one["candidates"]) == 2
            assert one["candidates"][0]["log_probability"] >= one["log_probability"] - 1e-6
    assert "candidates" not in (await post(http, "/score", text="a"))["tokens"][0]
    assert (await post(http, "/score", text=""))["tokens"] == []


def test_an_answer_is_json_without_infinities() -> None:
    """Whoever reads it needs no special parser."""
    for log_probability, perplexity in ((-1.0, math.e), (-(10.0**6), None)):
        totals = ScoreTotals(1, log_probability, 0, Standing(1, 1))
        assert shapes.of_totals(totals)["perplexity"] == perplexity


async def test_turns_advance_a_session(http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """It is named in the body or by the header, and a key makes a repeat the same turn."""
    await ours.create_session("s")
    whole = await post(http, "/score", text="abcdef")
    first = await post(http, "/score", text="abc", session_id="s")
    assert (first["position"], first["session_id"]) == (3, "s")
    headers = {"x-session-id": "s", "idempotency-key": "k"}
    for _ in range(2):
        answer = await http.post("/score", json={"text": "def"}, headers=headers)
        assert answer.json()["position"] == 6
        assert [one["log_probability"] for one in first["tokens"] + answer.json()["tokens"]] == [
            one["log_probability"] for one in whole["tokens"]
        ]
    assert (await post(http, "/predict", session_id="s"))["position"] == 6
    assert (await ours.get_session("s")).position == 6
    answer = await http.post("/predict", json={"text": "x", "session_id": "s", "expected_position": 5})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "position_mismatch")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/predict", {"text": "a", "tokens": [1]}, "tokens"),
        ("/predict", {"tokens": [9999]}, "input"),
        ("/predict", {"text": 1}, "text"),
        ("/predict", {"text": "a", "num_candidates": 10**6}, "num_candidates"),
        ("/predict", {"text": "a", "prompt": "a"}, "prompt"),
        ("/predict", {"text": "a", "word_prefix": "x" * 65}, "word_prefix"),
        ("/score", {"text": "x" * 600_000}, "input"),
        ("/score", {"text": "a", "num_candidates": 65}, "num_candidates"),
        ("/score", {"text": "x" * 40_000, "num_candidates": 64}, "num_candidates"),
        ("/score", {"text": "a", "num_top": 0}, "num_top"),
        ("/score", {"text": "a\ud83d"}, "text"),
    ],
)
async def test_wrong_values_are_named(http: httpx.AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    """With a status of their own."""
    answer = await http.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_a_client_that_goes_ends_its_turn(http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """The session is free at once, where it was."""
    await ours.create_session("s")
    with pytest.raises(httpx.TimeoutException):
        await http.post("/score", json={"text": "x" * 60_000, "session_id": "s"}, timeout=0.2)
    async with asyncio.timeout(5):
        assert (await ours.predict("a", session_id="s")).position in (1, 60_001)
