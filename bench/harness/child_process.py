"""Programs that benches start, kill, pause and start again on the same ports."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PAUSE_SECONDS = 7.0  # beyond the lease of a session store


class Process:
    """A child that is killed, paused and started again on the same ports. What it says goes to the end of `log`."""

    def __init__(
        self, command: list[str], ready_port: int, variables: dict[str, str] | None = None, log: Path | None = None
    ) -> None:
        self._command = command
        self._port = ready_port
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")} | (variables or {})
        self._log = log or Path(os.devnull)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=log
            )

    def wait_until_listening(self) -> None:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self._command[0]} does not listen on {self._port}")

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill_and_restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.send(number)
        await self.wait_for_end()
        await asyncio.sleep(0.3)
        self.start()
        await asyncio.to_thread(self.wait_until_listening)

    async def wait_for_end(self) -> None:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, 60)

    async def pause(self) -> None:
        self.send(signal.SIGSTOP)
        await asyncio.sleep(PAUSE_SECONDS)
        self.send(signal.SIGCONT)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def redis_command(port: int, directory: Path) -> list[str]:
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    return [require_program("redis-server"), "--port", str(port), "--dir", str(directory), *durable]


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def require_program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise SystemExit(f"{name} is not installed (Debian packages redis-server, haproxy, openssl)")
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [bound.getsockname()[1] for bound in sockets]


@contextlib.contextmanager
def running_redis(directory: Path) -> Iterator[str]:
    """Its URL. It writes before it answers, as the deployment's does."""
    (port,) = free_ports(1)
    redis = Process(redis_command(port, directory), port)
    redis.start()
    try:
        redis.wait_until_listening()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        redis.end()
