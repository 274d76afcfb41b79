"""A peer's own virtual environment and process: nothing of a peer enters the project's environment."""

import contextlib
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

CACHE = Path("runs/peers")
ONNXRUNTIME = f"onnxruntime=={version('onnxruntime')}"  # ours, so that the bits can be the same
START_SECONDS = 300.0


class PeerUnavailable(Exception):
    """A peer cannot be installed or started here, and why."""


def prepare_environment(name: str, requirements: Sequence[str], bare_requirements: Sequence[str] = ()) -> Path:
    """The environment's directory, made unless an earlier run did; bare requirements come without what they depend on.

    Raises PeerUnavailable with the installer's last words.
    """
    directory = (CACHE / name).absolute()
    stamp = directory / "installed.txt"
    wanted = "\n".join([*requirements, *bare_requirements])
    if stamp.exists() and stamp.read_text() == wanted:
        return directory
    install = [str(directory / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])
    if bare_requirements:
        _run([*install, "--no-deps", *bare_requirements])
    _run([*install, *requirements])
    stamp.write_text(wanted)
    return directory


def site_packages(environment: Path) -> Path:
    """Where an environment's packages lie."""
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": str(environment)}))


@contextlib.contextmanager
def running(command: Sequence[str], port: int, variables: Mapping[str, str], log: Path) -> Iterator[None]:
    """A server that listens on `port`; ended with the block, and started anew when it ends before. Raises
    PeerUnavailable with its last words when it does not come up at first."""
    with log.open("w") as file:
        kept = _Kept(lambda: subprocess.Popen(command, env=variables, stdout=file, stderr=file, cwd=log.parent))
        try:
            _wait_until_listening(kept.process, port, log)
            kept.watch()
            yield
        finally:
            kept.end()


class _Kept:
    """A process that is followed by another one of its kind until `end`."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self.process = start()
        self._is_ending = False
        self._changing = threading.Lock()
        self._watcher = threading.Thread(target=self._replace)

    def watch(self) -> None:
        self._watcher.start()

    def end(self) -> None:
        with self._changing:
            self._is_ending = True
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        self.process.kill()
        self.process.wait()
        if self._watcher.is_alive():
            self._watcher.join()

    def _replace(self) -> None:
        while True:
            code = self.process.wait()
            with self._changing:
                if self._is_ending:
                    return
                print(f"{self.process.args!r} ended by itself ({code}); it is started anew", file=sys.stderr)
                self.process = self._start()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise PeerUnavailable(f"{' '.join(command)}: {last_words(done.stdout)}")


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise PeerUnavailable(f"{process.args!r} does not listen: {last_words(log.read_text())}")


def last_words(text: str) -> str:
    """The end of what a program said."""
    return " | ".join(text.strip().splitlines()[-5:])
