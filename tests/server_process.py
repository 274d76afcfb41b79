"""Starts `carousel serve` as a process of its own, as users do, for tests to talk to."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_READY = re.compile(r"serving gRPC on (\S+), HTTP on (\S+) ")


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that is ready. Addresses are host:port."""

    process: subprocess.Popen[str]
    grpc_address: str
    http_address: str
    page_url: str = ""  # where it has one


@contextlib.contextmanager
def serve(
    bundle: Path,
    *options: str,
    log: Path | None = None,
    variables: Mapping[str, str] | None = None,
    has_page: bool = False,
) -> Iterator[ServerProcess]:
    """Serves a bundle on free ports; `options` go onto its command line. The server is killed if it outlives the
    block."""
    command = [sys.executable, "-m", "carousel", "serve", str(bundle)]
    command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *options]
    command += ["--openai", "127.0.0.1:0"] if has_page else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAROUSEL_")}
    environment |= variables or {}
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log is not None else subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        stack.callback(_end, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = _READY.match(line)
        assert ready is not None, f"the server did not start: {line or 'no output'}"
        yield ServerProcess(process, ready[1], ready[2], _read_page_url(process) if has_page else "")


def _read_page_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    process.stdout.readline()  # of OpenAI's clients
    return process.stdout.readline().removeprefix("the page: ").rstrip()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()
