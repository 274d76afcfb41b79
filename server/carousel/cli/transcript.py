"""How a generation is shown: bare in a pipe; on a terminal between its prompt and a line of figures."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from carousel.cli.texts import show
from carousel.client import Piece

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Transcript:
    """Writes to standard output. On a terminal it leaves out control characters of the model and the prompt."""

    def __init__(self, *, is_terminal: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self._is_terminal = is_terminal
        self._has_styles = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._clock = clock
        self._last = "\n"
        self._tally: _Tally | None = None  # of the running block

    @contextmanager
    def around(self, prompt: str) -> Iterator[None]:
        """On a terminal, prints the prompt before the block's output. After the block, however it ends, the cursor is
        at the start of a line, and the figures follow a complete generation."""
        if self._is_terminal and prompt:
            self.write(prompt, _BOLD)
        self._tally = tally = _Tally(self._clock)
        try:
            yield
        finally:
            if self._is_terminal:
                self.end_line()
        if self._is_terminal and (figures := tally.describe()):
            self.write(f"{figures}\n", _DIM)

    def write(self, text: str, style: str = "") -> None:
        shown = show(text) if self._is_terminal else text
        sys.stdout.write(f"{style}{shown}{_PLAIN}" if style and self._has_styles else shown)
        sys.stdout.flush()
        self._last = text or self._last

    def end_line(self) -> None:
        """Ends the line unless the cursor is at the start of one."""
        if not self._last.endswith("\n"):
            self.write("\n")

    def count(self, piece: Piece) -> None:
        """Adds the piece to the figures."""
        if self._tally is not None:
            self._tally.add(piece)


class _Tally:
    """The number of tokens, their speed, and the seed that reproduces them.

    The clock starts with the call: messages that wait to be read would make a later start look too fast.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = clock()
        self._last_at = 0.0
        self._num_tokens = 0
        self._seed: int | None = None

    def add(self, piece: Piece) -> None:
        if piece.tokens:
            self._last_at = self._clock()
            self._num_tokens += len(piece.tokens)
        if piece.finished is not None and piece.branch == 0:
            self._seed = piece.finished.seed

    def describe(self) -> str:
        """Returns the figures; empty unless the generation ended with tokens."""
        if self._seed is None or not self._num_tokens:
            return ""
        seconds = max(self._last_at - self._started_at, 1e-6)
        count = f"{self._num_tokens:,} token{'s' if self._num_tokens > 1 else ''} in {seconds:.2f} s"
        return f"{count}, {self._num_tokens / seconds:,.0f} tokens/s, seed {self._seed}"
