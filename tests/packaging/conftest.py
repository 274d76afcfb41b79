"""The packaging tests share the wheel, built once, and a model for other clients."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.packaging.animals import Served, serve_animals
from tests.packaging.environments import ROOT

from carousel.client import Client


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel by way of the source distribution, as a release does."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)], check=True)
    [made] = target.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_animals(tmp_path_factory.mktemp("animals")) as served:
        yield served


@pytest.fixture
def ours(animals: Served) -> Iterator[Client]:
    with Client(animals.grpc_address) as client:
        yield client
