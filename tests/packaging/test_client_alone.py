"""The lines of docs/client.md install a client that talks to a server, and nothing that only servers need."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bundles import write_bundle
from tests.packaging.environments import ROOT, clean_environ, make_environment
from tests.server_process import ServerProcess, serve

pytestmark = pytest.mark.packaging

_PROGRAM = """
import sys
from carousel.client import Client

with Client(sys.argv[1]) as client, client.session() as session:
    print(client.is_serving(), sum(len(piece.tokens) for piece in session.generate("abc", max_tokens=5)))
    print(len(session.predict("d", k=3).candidates), [piece.totals.num_tokens for piece in session.score("ef")][-1])
print([name for name in ("numpy", "onnxruntime", "pydantic", "typer") if name in sys.modules])
"""


def _lines() -> list[list[str]]:
    """Returns the page's pip commands in their order, without `pip`."""
    page = (ROOT / "docs" / "client.md").read_text()
    return [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("pip install ")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("bundle")
    write_bundle(directory)
    with serve(directory) as running:
        yield running


def test_the_lines_of_the_page_make_a_client(wheel: Path, server: ServerProcess, tmp_path: Path) -> None:
    """The first two lines give the library and the third the command, in a tenth of the space of a server."""
    programs = make_environment(tmp_path / "env")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(line: list[str]) -> None:
        run(str(programs / "pip"), *(str(wheel) if part.endswith(".whl") else part for part in line))

    packages, ours, command = _lines()
    install(packages)
    install(ours)
    told = run(str(programs / "python"), "-c", _PROGRAM, server.grpc_address)
    assert told == "True 5\n3 2\n[]\n"
    names = {line.split("==")[0].lower() for line in run(str(programs / "pip"), "list", "--format=freeze").split()}
    assert not names & {"numpy", "onnxruntime", "pydantic", "tokenizers", "uvicorn"}
    install(command)
    for arguments in (("tokenize", "abc"), ("sessions", "create"), ("generate", "abc"), ("models",)):
        assert run(str(programs / "carousel"), *arguments, "--address", server.grpc_address)
