"""Environments without a way back to the checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clean_environ() -> dict[str, str]:
    """Returns an environment without anything that could lead back to the checkout."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("CAROUSEL_", "PYTHON", "VIRTUAL_"))}


def make_environment(place: Path) -> Path:
    """Makes an empty virtual environment and returns its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    return place / "bin"
