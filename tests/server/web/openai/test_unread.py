"""A client that does not read its answer is idle: it loses its place when places run short, and delays no shutdown."""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.server.logged import problems_in
from tests.server.running_app import LOCAL

from carousel.app import running
from carousel.identity.principals import digest
from carousel.settings import Settings
from carousel.web.app import WebServer

SETTINGS = Settings(
    **LOCAL,
    openai_listen="127.0.0.1:0",
    drain_seconds=0.5,
    max_input_tokens=2**21,
    max_input_bytes=2**21,
    max_message_bytes=2**22,
    max_generated_tokens=10**6,
)
WHOLE = ("/tokenize", {"prompt": "x" * 2_000_000})  # an answer of 10 MB: the kernel buffers some
STREAM = ("/v1/completions", {"prompt": "a", "max_tokens": 60_000, "stream": True, "logprobs": 5})


@contextlib.contextmanager
def unread(address: str, path: str, body: dict[str, Any], key: str = "") -> Iterator[socket.socket]:
    """Sends a request, and never reads."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"content-length: {len(content)}"] + ([f"authorization: Bearer {key}"] if key else [])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = address.rpartition(":")
        client.connect((host, int(port)))
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + content)
        yield client


@pytest.mark.parametrize(("path", "body"), [WHOLE, STREAM], ids=["whole", "stream"])
async def test_the_server_stops(bundle: Path, caplog: pytest.LogCaptureFixture, path: str, body: Any) -> None:
    """Within seconds, and without errors of its own."""
    with caplog.at_level(logging.ERROR), contextlib.ExitStack() as stack:
        async with asyncio.timeout(60):
            async with running(bundle, SETTINGS) as server:
                await asyncio.to_thread(stack.enter_context, unread(server.openai_address, path, body))
                await asyncio.sleep(1.5)
                stopped = time.monotonic()
        assert time.monotonic() - stopped < 10
    assert not problems_in(caplog)


async def test_a_web_server_stops_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its application does."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 10_000_000})

    server = WebServer(answer)
    await server.start("127.0.0.1:0")
    with caplog.at_level(logging.ERROR), unread(server.address, "/", {}):
        await asyncio.sleep(0.3)
        async with asyncio.timeout(6):
            await server.stop()
    assert not problems_in(caplog)


async def test_an_unread_answer_is_not_over(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps its place until that is needed for another owner."""
    keys = ("k" * 40, "o" * 40)
    (tmp_path / "principals.toml").write_text(
        "".join(
            f'[[principal]]\nname = "{key[0]}"\ntokens = ["{digest(key)}"]\nscopes = ["generate"]\n' for key in keys
        )
    )
    settings = SETTINGS.model_copy(update={"principals": tmp_path / "principals.toml", "max_streams": 1})
    settings = settings.model_copy(update={"reserved_streams": 0})
    with caplog.at_level(logging.ERROR):
        async with running(bundle, settings) as server, httpx.AsyncClient() as http:

            async def ask() -> int:
                url, headers = f"http://{server.openai_address}/tokenize", {"authorization": f"Bearer {keys[1]}"}
                return (await http.post(url, json={"prompt": "a"}, headers=headers)).status_code

            with contextlib.ExitStack() as stack:
                await asyncio.to_thread(stack.enter_context, unread(server.openai_address, *WHOLE, keys[0]))
                await asyncio.sleep(5)
                async with asyncio.timeout(10):
                    while await ask() != 200:
                        await asyncio.sleep(0.1)
                text = capsys.readouterr().out
                assert "RESOURCE_EXHAUSTED" in text
    assert not problems_in(caplog)
