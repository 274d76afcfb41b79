"""The servers of the soak: one for each store."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.harness.child_process import Process, free_ports, redis_command
from bench.harness.server_process import ServerProcess, serve
from trials.leaking_server import VARIABLE

STORES = ("memory", "sqlite", "redis")
_IDLE_SECONDS = "20"  # so that sessions expire all the time


def program_of(python: str = sys.executable) -> tuple[str, ...]:
    """Returns the server's program; one that leaks when the environment says so."""
    return (python, "-m", "trials.leaking_server" if VARIABLE in os.environ else "carousel")


@dataclass(frozen=True, slots=True)
class SoakServers:
    """How the servers are started."""

    bundle: Path
    vocabulary_size: int
    directory: Path
    program: tuple[str, ...]

    @contextlib.contextmanager
    def running(self, store: str) -> Iterator[ServerProcess]:
        with self._place(store) as place:
            options = ("--set", f"store={place}", "--set", f"session_idle_seconds={_IDLE_SECONDS}")
            with serve(self.bundle, *options, program=self.program) as server:
                yield server

    @contextlib.contextmanager
    def _place(self, store: str) -> Iterator[str]:
        match store:
            case "sqlite":
                yield f"sqlite:{self.directory / 'soak.db'}"
            case "redis":
                (port,) = free_ports(1)
                redis = Process(redis_command(port, self.directory), port)
                try:
                    redis.start()
                    redis.wait_until_listening()
                    yield f"redis://127.0.0.1:{port}/0"
                finally:
                    redis.end()
            case _:
                yield "memory"
