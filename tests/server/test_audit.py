"""The audit log has a line for each call, also for refused ones, and no text in any; it costs no call."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client import generate_latest
from tests.server.running_app import LOCAL, fetch

from carousel.app import Running, running
from carousel.audit import AuditLog
from carousel.client import AsyncClient, ServerError
from carousel.errors import SettingsInvalid
from carousel.identity.principals import digest
from carousel.identity.scopes import CALLS
from carousel.settings import read_settings

TOKEN = f"marked_{'x' * 40}"
FILE = f"""
[[principal]]
name = "search"
tokens = ["{digest(TOKEN)}"]
scopes = ["generate", "score", "sessions"]
"""


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def await_lines(path: Path, num_lines: int) -> list[dict[str, Any]]:
    """A thread writes them."""
    async with asyncio.timeout(20):
        while len(path.read_text().splitlines()) < num_lines:
            await asyncio.sleep(0.01)
    return lines_of(path)


def until(condition: Callable[[], bool]) -> None:
    """The test's time limit bounds the wait."""
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def server(bundle: Path, tmp_path: Path, path: Path) -> AsyncIterator[Running]:
    (tmp_path / "principals.toml").write_text(FILE)
    key = base64.b64encode(bytes(32)).decode()
    given = {
        "seal_keys": key,
        "principals": str(tmp_path / "principals.toml"),
        "audit_log": str(path),
        "openai_listen": "127.0.0.1:0",
        "inspect": "true",
    }
    async with running(bundle, read_settings({}, LOCAL | given)) as server:
        yield server


async def test_each_call_has_its_line(server: Running, path: Path) -> None:
    """Who, what, on which session, with which result and how many tokens."""
    async with AsyncClient(server.grpc_address, token=TOKEN) as client:
        async with client.session("marked-session") as session:
            async for _ in session.generate("hello", max_tokens=7):
                pass
        with pytest.raises(ServerError):
            await client.get_session("marked-missing")
    created, generated, deleted, missing = await await_lines(path, 4)
    assert [created["method"], deleted["method"], missing["code"]] == ["CreateSession", "DeleteSession", "NOT_FOUND"]
    session_hash, peer = generated.pop("session"), generated.pop("peer")
    assert session_hash == created["session"] == deleted["session"] != missing["session"]
    assert peer.startswith("ipv4:127.0.0.1:")
    assert generated.pop("seconds") > 0
    assert generated.pop("time").endswith("+00:00")
    assert generated == {
        "method": "Generate",
        "code": "OK",
        "principal": "search",
        "input_tokens": 5,
        "generated_tokens": 7,
    }
    assert missing["reason"] == "SESSION_NOT_FOUND"


async def test_refused_callers_have_theirs(server: Running, path: Path) -> None:
    """On all transports."""
    async with AsyncClient(server.grpc_address, token="wrong" * 10) as client:
        with pytest.raises(ServerError):
            await client.models()
    assert (await fetch(server.http_address, "/metrics"))[0] == 401
    async with httpx.AsyncClient() as http:
        await http.post(f"http://{server.openai_address}/v1/completions", json={"prompt": "marked"})
    assert [(line["method"], line["code"]) for line in await await_lines(path, 3)] == [
        ("ListModels", "UNAUTHENTICATED"),
        ("/metrics", "UNAUTHENTICATED"),
        ("/v1/completions", "UNAUTHENTICATED"),
    ]


async def test_no_output_has_text(
    server: Running, path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Marked prompts, stops, ids and tokens go through the calls; neither log, audit log nor metrics have them."""
    async with AsyncClient(server.grpc_address, token=TOKEN) as client:
        async with client.session("marked-session") as session:
            async for _ in session.generate("marked prompt", max_tokens=7, stop=["marked stop"]):
                pass
            async for _scored in session.score("marked text"):
                pass
            await session.predict("marked", word_prefix="marked")
            async with session.predictor() as predict:
                await predict("marked")
            await session.checkpoint("marked-checkpoint")
            await session.fork()
            await session.rewind(checkpoint="marked-checkpoint")
            await session.history()
            async for _moment in session.inspect("marked text"):
                pass
            await session.get()
            state = await session.export()
        await client.import_session(state, "marked-import")
        assert [one.session_id async for one in client.list_sessions()]
        async with await client.watch() as events:
            await client.create_session("marked-event")
            async for event in events:
                assert event.session_id == "marked-event"
                break
        await client.tokenize("marked text")
        await client.detokenize(list(b"marked text"))
        await client.models()
        await client.model("tiny")
        with pytest.raises(ServerError):
            async for _ in client.generate("marked", session_id="marked session"):
                pass
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as http:
        body = {"prompt": "marked prompt", "stop": "marked stop", "session_id": "marked-http", "echo": True}
        answer = await http.post(f"http://{server.openai_address}/v1/completions", json=body)
        assert "marked prompt" in answer.text
    lines = await await_lines(path, 22)
    assert {line["method"] for line in lines} == set(CALLS) - {"Predict"} | {"/v1/completions"}
    nameless = {"Tokenize", "Detokenize", "Generate", "PredictMany", "ListModels", "GetModel", "ListSessions"}
    nameless |= {"ImportSession", "WatchSessions"}
    assert {line["method"] for line in lines if "session" not in line} <= nameless
    printed = capsys.readouterr()
    assert "Generate" in printed.out + printed.err + caplog.text
    page = generate_latest(server.registry).decode()
    for output in (path.read_text(), printed.out, printed.err, caplog.text, page):
        assert "marked" not in output


def test_a_file_that_was_moved_away_is_made_anew(path: Path) -> None:
    """So that the system can rotate it; an old one is appended to."""
    path.write_text('{"method": "before"}\n')
    log = AuditLog(str(path), lambda: None)
    log.note("one", "", "OK", 0.0, {})
    until(lambda: "one" in path.read_text())
    path.rename(path.with_suffix(".1"))
    log.note("two", "", "OK", 0.0, {})
    log.close()
    assert path.stat().st_mode & 0o077 == 0
    assert [line["method"] for line in lines_of(path.with_suffix(".1"))] == ["before", "one"]
    assert [line["method"] for line in lines_of(path)] == ["two"]


def test_standard_output_is_a_destination(capsys: pytest.CaptureFixture[str]) -> None:
    log = AuditLog("-", lambda: None)
    log.note("one", "", "OK", 0.0, {})
    log.close()
    assert json.loads(capsys.readouterr().out)["method"] == "one"


def test_a_line_that_cannot_be_written_is_counted(path: Path) -> None:
    """And raises nothing."""
    failures: list[None] = []
    log = AuditLog(str(path), lambda: failures.append(None))
    path.unlink()
    path.parent.joinpath("audit.jsonl").mkdir()
    log.note("one", "", "OK", 0.0, {})
    log.close()
    assert len(failures) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_costs_lines_alone() -> None:
    failures: list[None] = []
    log = AuditLog("/dev/full", lambda: failures.append(None))
    log.note("one", "", "OK", 0.0, {})
    log.close()
    assert failures


def test_a_stuck_reader_holds_nobody_up(path: Path) -> None:
    """Lines beyond those that may wait are counted as lost, and the end comes within seconds."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    failures: list[None] = []
    log = AuditLog(str(path), lambda: failures.append(None))
    started = time.monotonic()
    for _ in range(12_000):
        log.note("one", "", "OK", 0.0, {"reason": "x" * 100})
    log.close()
    assert failures
    assert time.monotonic() - started < 10
    os.close(reader)
    log.close()  # the thread ends


def test_a_destination_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="audit_log: cannot write"):
        AuditLog(str(tmp_path / "nothing" / "audit.jsonl"), lambda: None)
