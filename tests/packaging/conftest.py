"""The packaging tests share the wheel, built once, and environments without a way back to the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def clean_environ() -> dict[str, str]:
    """Returns an environment without anything that could lead back to the checkout."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("CAROUSEL_", "PYTHON", "VIRTUAL_"))}


def make_environment(place: Path) -> Path:
    """Makes an empty virtual environment and returns its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    return place / "bin"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel by way of the source distribution, as a release does."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)], check=True)
    [made] = target.glob("*.whl")
    return made
