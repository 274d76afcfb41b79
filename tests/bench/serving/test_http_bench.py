"""The bench of HTTP measures whole texts over both interfaces of one server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.harness.child_process import free_ports
from bench.harness.load import Load, put_load
from bench.harness.server_process import ServerProcess, serve
from tests.bundles import write_bundle

from bench.serving import http

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def http_address() -> str:
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def server(bundle: Path, http_address: str) -> Iterator[ServerProcess]:
    with serve(bundle, "--set", f"openai_listen={http_address}", "--set", "max_generated_tokens=500") as running:
        yield running


@pytest.mark.parametrize("kind", ["grpc_text", "http_text"])
def test_each_text_has_its_times_and_its_tokens(server: ServerProcess, http_address: str, kind: str) -> None:
    """Its first words come after it is asked for, and its end after them."""
    address = http_address if kind == "http_text" else server.grpc_address
    texts = put_load(address, Load(kind, 5, 2, 400))
    assert [text["num_tokens"] for text in texts] == [400] * 5
    assert all(text["asked"] < text["first"] < text["last"] for text in texts)


def test_a_refusal_is_no_text(server: ServerProcess, http_address: str) -> None:
    """The client ends with the server's message."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        put_load(http_address, Load("http_text", 2, 1, 501))
    assert "max_tokens" in caught.value.stderr


def test_the_figures(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speeds, costs and first tokens of both, and the ratio that is asked about."""
    http.measure(bundle, tmp_path, 1, 20)
    found = {line["name"]: line["value"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    ends = ("tokens", "server", "first_token_p50", "first_token_p99")
    kinds = ("grpc", "generation")
    assert found.keys() == {f"http.small.{kind}.{end}" for kind in kinds for end in ends} | {
        "http.small.generation_over_grpc"
    }
    assert found["http.small.generation_over_grpc"] == pytest.approx(
        found["http.small.generation.tokens"] / found["http.small.grpc.tokens"], rel=1e-3
    )
