"""`carousel serve`: how it uses its arguments, and the process that it prepares for a server."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from tests.server.cli.conftest import Run

from carousel.cli import serve as command
from carousel.errors import BundleInvalid, ModelFailed
from carousel.settings import Settings

READY = SimpleNamespace(
    grpc_address="127.0.0.1:1", http_address="127.0.0.1:2", provider="cpu", openai_url="", page_url=""
)
NOT_USED = ("redis", "sqlite3", "carousel.state.sqlite_store", "websockets", "httptools")


def serve_by(monkeypatch: pytest.MonkeyPatch, ends: Exception | None = None, ready: Any = READY) -> list[Any]:
    """Replaces the application; returns its arguments, and the loop in which it ran."""
    seen: list[Any] = []

    async def serve(
        bundle: Path, settings: Settings, announce: Callable[[Any], None], announce_drain: Callable[[float], None]
    ) -> None:
        seen.extend((bundle, settings, asyncio.get_running_loop()))
        if ends is not None:
            raise ends
        announce(ready)
        announce_drain(settings.drain_seconds)

    monkeypatch.setattr(command, "serve_bundle", serve)
    monkeypatch.setattr(command, "configure_logging", lambda level: None)
    monkeypatch.delenv("CAROUSEL_ADDRESS", raising=False)
    return seen


def test_it_serves_in_a_fast_loop_and_says_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options become settings, the loop is uvloop's, and the collector ignores objects from the start."""
    seen = serve_by(monkeypatch)
    try:
        result = run("serve", "somewhere", "--threads", "2", "--set", "max_lanes=3")
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    bundle, settings, loop = seen
    first, second = result.out.splitlines()
    assert first == "serving gRPC on 127.0.0.1:1, HTTP on 127.0.0.1:2 (cpu)"
    assert second.startswith("stopping: turns that run have up to 30 s to finish. A second Ctrl-C")
    assert (bundle, settings.num_threads, settings.max_lanes) == (Path("somewhere"), 2, 3)
    assert isinstance(loop, uvloop.Loop)


def test_it_says_where_callers_over_http_go(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is an address for them, and a page."""
    url = "http://127.0.0.1:3"
    for page_url in ("", f"{url}/"):
        ready = SimpleNamespace(**vars(READY) | {"openai_url": f"{url}/v1", "page_url": page_url})
        seen = serve_by(monkeypatch, ready=ready)
        result = run("serve", "somewhere", "--openai", "127.0.0.1:0")
        gc.unfreeze()
        assert seen[1].openai_listen == "127.0.0.1:0"
        told = result.out.splitlines()[1:-1]
        assert told == ["OpenAI's clients: http://127.0.0.1:3/v1"] + ([f"the page: {url}/"] if page_url else [])


@pytest.mark.parametrize(("error", "code"), [(BundleInvalid("bad bundle"), 2), (ModelFailed("it broke"), 1)])
def test_what_goes_wrong_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    """The exit code is 2 where the server did not start, and 1 where it failed later."""
    serve_by(monkeypatch, ends=error)
    result = run("serve", "somewhere")
    assert (result.code, result.err) == (code, f"carousel serve: {error}\n")


def test_a_start_imports_only_what_it_uses() -> None:
    """Unused stores, and modules of other commands, cost a server neither time nor memory."""
    script = f"import sys, carousel.cli.serve; print([name for name in {NOT_USED!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
