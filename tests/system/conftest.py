"""A real model, trained and exported in seconds by the commands that users run, and real servers on free ports."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server_process import ServerProcess, serve
from tests.system.persistent_sessions import KEYS

from carousel.client import Client

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
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a byte-level LSTM that memorises one sentence, and exports it: once for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "bundle").exists():
            _train_and_export(directory)
    return directory


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    return trained / "run"


@pytest.fixture(scope="session")
def bundle(trained: Path) -> Path:
    return trained / "bundle"


def _train_and_export(directory: Path) -> None:
    text, settings = directory / "text.txt", directory / "settings.toml"
    text.write_text(TEXT)
    settings.write_text(SETTINGS)
    train = [_command("carousel-train"), "--config", str(settings), "--text", str(text)]
    subprocess.run([*train, "--out", str(directory / "run"), "--fresh"], check=True, capture_output=True)
    export = [_command("carousel-export"), str(directory / "run"), str(directory / "bundle")]
    subprocess.run(export, check=True, capture_output=True)


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves the tests of a module."""
    with serve(bundle, log=tmp_path_factory.mktemp("server") / "log.jsonl") as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def sealing(bundle: Path) -> Iterator[ServerProcess]:
    """Starts a server that can seal, and identifies its callers by metadata."""
    with serve(bundle, variables={"CAROUSEL_SEAL_KEYS": KEYS[0], "CAROUSEL_OWNER_METADATA": "x-owner"}) as server:
        yield server


def _command(name: str) -> str:
    """Returns the path of an installed command, as users call it."""
    return str(Path(sys.executable).with_name(name))
