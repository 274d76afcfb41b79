"""A real model, trained and exported in seconds by the commands that users run, and real servers on free ports."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server_process import ServerProcess, serve

TEXT = "The carousel turns and the horses rise and fall; when the music ends the horses rest.\n" * 60
SETTINGS = """
seed = 0
vocabulary = {kind = "byte"}
model = {hidden_size = 128, embedding_size = 32, dropout = 0.0}
batch = {num_lanes = 4, segment = 32}
optimizer = {learning_rate = 0.02}
budget = {max_steps = 500}
compute = {precision = "float32", threads = 1}
"""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level LSTM that has memorised one sentence."""
    directory = tmp_path_factory.mktemp("system")
    text, settings = directory / "text.txt", directory / "settings.toml"
    text.write_text(TEXT)
    settings.write_text(SETTINGS)
    command = [_command("carousel-train"), "--config", str(settings), "--text", str(text)]
    subprocess.run([*command, "--out", str(directory / "run")], check=True, capture_output=True)
    return directory / "run"


@pytest.fixture(scope="session")
def bundle(checkpoint: Path) -> Path:
    target = checkpoint.with_name("bundle")
    subprocess.run([_command("carousel-export"), str(checkpoint), str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for the tests of a module."""
    with serve(bundle, log=tmp_path_factory.mktemp("server") / "log.jsonl") as running:
        yield running


def _command(name: str) -> str:
    """The installed command, as users call it."""
    return str(Path(sys.executable).with_name(name))
