"""The commands against a real server with a real model, as a shell runs them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.server_process import ServerProcess

from carousel.client import AsyncClient, Client

pytestmark = pytest.mark.slow

_KNOWN = "The carousel turns and the horses rise and fall."


def _run(server: ServerProcess, *arguments: str, stdin: str = "") -> str:
    command = [sys.executable, "-m", "carousel", *arguments, "--address", server.grpc_address]
    ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_as_many_tokens_as_asked_for_are_printed(server: ServerProcess) -> None:
    """A byte each, and nothing beside them."""
    assert len(_run(server, "generate", _KNOWN[:24], "--temperature", "0", "--max-tokens", "12").encode()) == 12


def test_a_conversation_in_parts_equals_one(server: ServerProcess) -> None:
    """Fed in two turns, the session continues as the whole text does."""
    greedy = ("--temperature", "0", "--max-tokens", "20")
    session_id = _run(server, "sessions", "create").strip()
    _run(server, "generate", _KNOWN[:10], "--session", session_id, "--max-tokens", "0")
    in_parts = _run(server, "generate", _KNOWN[10:24], "--session", session_id, *greedy)
    assert in_parts == _run(server, "generate", _KNOWN[:24], *greedy)
    facts = json.loads(_run(server, "sessions", "get", session_id, "--json"))
    assert facts["position"] == 44
    _run(server, "sessions", "delete", session_id)


def test_strange_text_scores_worse_than_known_text(server: ServerProcess) -> None:
    """Line by line, the garbled line scores worst."""
    garbled = "eTh rcsaoeul tnrus dna hte soresh esir nad lafl."
    output = _run(server, "score", "--lines", "-", stdin=f"{_KNOWN}\n{garbled}\n")
    rows = [json.loads(line) for line in output.splitlines()]
    assert rows[0]["nats_per_token"] < rows[1]["nats_per_token"]
    assert [row["num_tokens"] for row in rows] == [len(_KNOWN), len(garbled)]


def test_a_text_beyond_one_request_scores_like_its_parts(server: ServerProcess, tmp_path: Path) -> None:
    """More tokens than a request may have: all are counted, on one sequence."""
    file = tmp_path / "long.txt"
    file.write_text((_KNOWN + "\n") * 1500)
    output = _run(server, "score", str(file))
    assert output.startswith(file.read_text())
    assert f"{file.stat().st_size:,} tokens" in output


def test_words_are_completed(server: ServerProcess) -> None:
    """Every suggestion begins with what was typed, the likeliest first; after a whole word the next one is offered."""
    known = "The carousel turns and the horses rise and"
    typed = f"The car\n{known}\n{known} \n"
    begun, whole, after = map(json.loads, _run(server, "predict", "--words", "3", "--json", stdin=typed).splitlines())
    assert (begun["prefix"], whole["prefix"], after["prefix"]) == (" car", "", " ")
    assert whole["words"] == after["words"]
    words = begun["words"]
    assert 1 <= len(words) <= 3
    assert all(word["text"].strip().startswith("car") for word in words)
    probabilities = [word["probability"] for word in words]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1


def test_an_empty_generation_is_an_answer(server: ServerProcess) -> None:
    """max_tokens 0 feeds and ends."""
    with Client(server.grpc_address) as client, client.session() as session:
        assert session.feed("abc") == 3
        assert session.feed("") == 3


async def test_predictions_over_one_stream_equal_fresh_ones(server: ServerProcess) -> None:
    """The stream carries the state; asking again changes nothing."""
    async with AsyncClient(server.grpc_address) as client:
        whole = await client.predict(_KNOWN[:24], k=5)
        async with client.predictor() as predict:
            for start in range(0, 24, 8):
                part = await predict(_KNOWN[start : start + 8], k=5)
            assert part == whole
            assert await predict(k=5) == whole


def test_health_is_quick(server: ServerProcess) -> None:
    """Of three runs the fastest stays well below what a container runtime waits for."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert _run(server, "health") == "serving\n"
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2


@pytest.mark.parametrize("arguments", [("generate", "x", "--max-tokens", "-1"), ("generate", "x", "--session", "none")])
def test_errors_are_one_line(server: ServerProcess, arguments: tuple[str, ...]) -> None:
    """They are the server's own words, with exit code 1."""
    command = [sys.executable, "-m", "carousel", *arguments, "--address", server.grpc_address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("carousel: ")
    assert ended.stderr.count("\n") == 1
