"""The set-up of the checkout says what it does before it is silent, and passes options on to pip."""

import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def _plan(*options: str) -> list[str]:
    """Returns what `make` would run for an environment that is out of date."""
    command = ["make", "--dry-run", "--what-if", "pyproject.toml", ".venv/.ready", *options]
    # It must not run as a part of the `make` that may run these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ran = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


def test_what_it_takes_is_said_first() -> None:
    """The time, the size and the way around gigabytes of CUDA come before the first slow command."""
    lines = _plan()
    first = next(number for number, line in enumerate(lines) if not line.startswith("echo"))
    told = " ".join(lines[:first])
    assert "a minute or two" in told
    assert "1.6 GB" in told
    assert "2.7 GB" in told
    assert "PIP_OPTIONS='--extra-index-url INDEX'" in told


def test_pip_takes_more_options() -> None:
    """pip gets whatever PIP_OPTIONS holds, and nothing unless it is given."""
    [pip] = [line for line in _plan("PIP_OPTIONS=--extra-index-url there") if "pip install" in line]
    assert "--constraint constraints.txt --extra-index-url there --editable" in pip
    [pip] = [line for line in _plan() if "pip install" in line]
    assert "index" not in pip
