"""The commands as a whole: names, errors, start-up."""

import importlib.metadata
import socket
import subprocess
import sys
import time

import pytest
from tests.server.cli.conftest import Run

from carousel.cli import main as commands


def test_every_command_is_there_and_explains_itself(run: Run) -> None:
    """Help lists all commands, and each command's help has a sentence, and the address option where it makes calls."""
    listing = run("--help")
    assert listing.code == 0
    for name, place in commands._COMMANDS.items():
        assert name in listing.out
        names = [(name, inner) for inner in place] if isinstance(place, dict) else [(name,)]
        for path in names:
            assert run(*path, "--help").code == 0


def test_the_version_is_told(run: Run) -> None:
    """It prints only the installed package's version, without a command; help names the option."""
    result = run("--version")
    assert (result.code, result.out) == (0, f"carousel {importlib.metadata.version('carousel-serving')}\n")
    assert "--version" in run("--help").out


def test_an_unknown_command_is_refused(run: Run) -> None:
    """Exit code 2, as for any wrong usage."""
    result = run("generat")
    assert result.code == 2
    assert "generat" in result.err


def test_a_servers_error_is_one_line(run: Run) -> None:
    """There is no traceback, only the server's message; exit code 1."""
    result = run("generate", "bad")
    assert result.code == 1
    assert result.out == ""
    assert result.err == "carousel: sampling.top_p: must be above 0 up to 1, not 7\n"


def test_an_unreachable_server_is_told_with_the_way_out(run: Run) -> None:
    """The error has the address, and how to start a server."""
    result = run("models", "--address", "127.0.0.1:1")
    assert result.code == 1
    assert result.err.startswith("carousel: the server at 127.0.0.1:1 does not answer")
    assert "carousel serve BUNDLE" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", ["health", "generate"])
def test_small_commands_load_little(command: str) -> None:
    """They import neither tables nor the terminal library nor the server."""
    code = f"import sys, carousel.cli.{command}, carousel.cli.main; print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & {"rich.table", "prompt_toolkit", "numpy", "onnxruntime", "pydantic", "carousel.app"}


def test_a_silent_server_is_noticed_soon(run: Run) -> None:
    """The server accepts the connection and stays silent: the command fails within seconds, not after the library's
    twenty."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        result = run("models", "--address", f"127.0.0.1:{silent.getsockname()[1]}")
    assert result.code == 1
    assert "does not answer" in result.err
    assert time.monotonic() - started < 10


def test_a_name_that_nobody_has_is_told_without_remains(run: Run) -> None:
    """The sentence is complete, without a bracket of the library's."""
    result = run("models", "--address", "no-such-host.invalid:1")
    assert result.err.startswith("carousel: the server at no-such-host.invalid:1 does not answer: ")
    assert "]" not in result.err
