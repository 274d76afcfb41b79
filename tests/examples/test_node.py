"""The Node example runs as it stands, with packages from the registry, against a real server."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bundles import write_bundle
from tests.server_process import ServerProcess, serve

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm here"),
]

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies the example beside a copy of the wire contract, as in the checkout, with its packages."""
    place = tmp_path_factory.mktemp("node")
    shutil.copytree(_ROOT / "proto", place / "proto")
    copy = place / "examples" / "node"
    shutil.copytree(_ROOT / "examples" / "node", copy, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=copy, check=True, capture_output=True)
    return copy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("bundle")
    write_bundle(directory)
    with serve(directory, "--set", "max_generated_tokens=40") as running:
        yield running


def _run(example: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "CAROUSEL_ADDRESS": address}
    command = ["node", "generate.js", *arguments]
    return subprocess.run(command, cwd=example, env=environ, capture_output=True, text=True, timeout=60)


def test_it_streams_a_text_on_a_session(example: Path, server: ServerProcess) -> None:
    """Prompt and text come first, then the figures: a seed in all its digits, and the session's position."""
    done = _run(example, server.grpc_address, "Once")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once")
    assert re.search(r"\n40 tokens, seed \d+; session \S+ is at position 44\n$", done.stdout)


def test_a_refusal_is_told_with_its_field(example: Path, server: ServerProcess) -> None:
    """The message has the reason and the wrong field, which the server attaches."""
    done = _run(example, server.grpc_address, "Once", "--temperature", "500")
    assert done.returncode == 1
    assert "INVALID_ARGUMENT INVALID_REQUEST: sampling.temperature" in done.stderr
    assert "field sampling.temperature: " in done.stderr
    assert "try again" not in done.stderr


def test_a_full_server_is_told_with_when_to_try_again(example: Path, tmp_path: Path) -> None:
    """The time is RetryInfo, in seconds."""
    write_bundle(tmp_path)
    full = ("--set", "max_sessions=1", "--set", "when_full=refuse")
    with serve(tmp_path, *full) as server:
        assert _run(example, server.grpc_address, "Once").returncode == 0
        done = _run(example, server.grpc_address, "Once")
    assert done.returncode == 1
    assert "RESOURCE_EXHAUSTED OVERLOADED" in done.stderr
    assert re.search(r"try again in \d+(\.\d+)? s", done.stderr)


def test_no_server_is_no_reason_of_the_servers(example: Path) -> None:
    """The message has only the code, from the connection."""
    done = _run(example, "127.0.0.1:1", "Once")
    assert done.returncode == 1
    assert "\nUNAVAILABLE : " in done.stderr
