"""Records `carousel predict` in a terminal and writes docs/images/predict.svg.

    python -m tools.recording bundles/demo

A server starts on the bundle; `carousel predict` runs in a pseudo terminal; keys are pressed as somebody would press
them; what appears on the screen is drawn with the time for which it was there. Only the keys are made up.
"""

import codecs
import os
import random
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.moving_picture import Frame, draw
from tools.terminal import CURSOR_QUESTION, Screen, Terminal

PICTURE = Path("docs/images/predict.svg")
NUM_ROWS, NUM_COLUMNS = 8, 64

_TAB, _END = "\t", "\x04"
_KEYS = ("The king's d", _TAB, "went into the f", _TAB, _TAB, "saw a ", _TAB, "m", _TAB, ".")
_START_SECONDS = 60.0
_LAST_SECONDS = 3.0
_SETTLING_SECONDS = 0.03  # a screen that stays for less is on its way to the next one

Moment = tuple[float, Screen]


@contextmanager
def serve(bundle: Path) -> Iterator[str]:
    """A server on free ports for as long as the block runs. Yields the gRPC address."""
    command = [sys.executable, "-m", "carousel", "serve", str(bundle), "--listen", "127.0.0.1:0", "--http"]
    process = subprocess.Popen(
        [*command, "127.0.0.1:0", "--set", "log_level=warning"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.match(r"serving gRPC on (\S+),", line)
        if ready is None:
            raise SystemExit(f"the server on {bundle} did not start: {line.strip() or 'its error stands above'}")
        yield ready[1]
    finally:
        process.terminate()
        process.communicate()


def press(parts: Iterable[str], random_source: random.Random) -> Iterator[tuple[float, str]]:
    """Pauses in seconds, each with the key that is pressed after it. Letters come fast; before a word is taken, the
    reader has time to see which ones there are."""
    for part in parts:
        if part != _TAB:
            yield from ((random_source.uniform(0.07, 0.16), letter) for letter in part)
        else:
            yield 1.1, part


def record(command: list[str], keys: Iterable[tuple[float, str]]) -> list[Moment]:
    """What a command shows in a pseudo terminal while keys are pressed: each screen with the second at which it was
    there. The first one is the first that is not empty."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (NUM_ROWS, NUM_COLUMNS))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        watcher = _Watcher(ours)
        watcher.await_start(_START_SECONDS)
        watcher.watch(2.0)
        for pause, key in keys:
            watcher.watch(pause)
            os.write(ours, key.encode())
        watcher.watch(1.0)
        os.write(ours, _END.encode())
        process.wait(timeout=10)
        return watcher.moments
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class _Watcher:
    """Reads a pseudo terminal, answers its questions and keeps every screen."""

    def __init__(self, descriptor: int) -> None:
        self.moments: list[Moment] = []
        self._descriptor = descriptor
        self._terminal = Terminal(NUM_ROWS, NUM_COLUMNS)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def await_start(self, seconds: float) -> None:
        """Returns when something is on the screen: keys that come before the program reads them are shown twice."""
        until = time.monotonic() + seconds
        while not self.moments:
            if time.monotonic() > until:
                raise SystemExit(f"the command showed nothing within {seconds:g} s")
            self.watch(0.1)

    def watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._descriptor], [], [], left)[0]:
                self._read()

    def _read(self) -> None:
        text = self._decoder.decode(os.read(self._descriptor, 65536))
        self._terminal.feed(text)
        if CURSOR_QUESTION in text:
            os.write(self._descriptor, self._terminal.cursor_report().encode())
        screen = self._terminal.screen()
        if self.moments or any(screen.lines()):
            self.moments.append((time.monotonic(), screen))


def make_frames(moments: list[Moment], last_seconds: float) -> list[Frame]:
    """Screens with their times. What stood for a moment alone, half drawn, goes into the screen after it."""
    frames: list[Frame] = []
    waiting = 0.0
    ends = [at for at, _ in moments[1:]] + [moments[-1][0] + last_seconds]
    for (at, screen), end in zip(moments, ends, strict=True):
        waiting += end - at
        if frames and frames[-1].screen == screen:
            frames[-1] = Frame(screen, frames[-1].seconds + waiting)
        elif waiting >= _SETTLING_SECONDS:
            frames.append(Frame(screen, waiting))
        else:
            continue
        waiting = 0.0
    return frames


def main(bundle: Path) -> None:
    with serve(bundle) as address:
        command = [sys.executable, "-m", "carousel", "predict", "--address", address]
        moments = record(command, press(_KEYS, random.Random(1)))
    frames = make_frames(moments, _LAST_SECONDS)
    PICTURE.write_text(draw(frames, "carousel predict"))
    print("\n".join(frames[-1].screen.lines()))
    print(f"{PICTURE}: {len(frames)} screens, {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give the bundle to record: python -m tools.recording bundles/demo")
    main(Path(sys.argv[1]))
