"""Runs the command on a pseudo-terminal, as a person does."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass

_STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True)
class Shown:
    """`screen` is the terminal's output, with the program's line ends; `piped` is what went to a piped output."""

    code: int
    screen: str
    piped: bytes

    @property
    def text(self) -> str:
        """The screen without styles."""
        return _STYLES.sub("", self.screen)


def run_on_terminal(
    *arguments: str,
    environ: Mapping[str, str],
    num_columns: int = 80,
    is_output_piped: bool = False,
    program: tuple[str, ...] = ("-m", "carousel"),
) -> Shown:
    """Waits until the program ends, up to a minute. With a piped output, the terminal has only input and errors."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, num_columns, 0, 0))
    output = subprocess.PIPE if is_output_piped else theirs
    command = [sys.executable, *program, *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=output, stderr=theirs, env={**os.environ, **environ}
    ) as process:
        os.close(theirs)
        try:
            piped = process.stdout.read() if process.stdout else b""
            screen = _read_all(ours)
            code = process.wait(60)
        finally:
            process.kill()
            os.close(ours)
    return Shown(code, screen.decode().replace("\r\n", "\n"), piped)


def _read_all(terminal: int) -> bytes:
    read = b""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # the other side is closed
            return read
        if not part:
            return read
        read += part
