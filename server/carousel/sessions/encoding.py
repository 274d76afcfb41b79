"""Text to tokens without holding the event loop up: short texts at once, long ones in a thread.

The thread is one for all: long texts wait for each other, and nobody waits for them.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from carousel.bundle.tokenizer import Tokenizer
from carousel.sessions import checks
from carousel.sessions.requests import Input

_SHORT_CHARACTERS = 2_048  # about a millisecond


class Encoder:
    """What callers feed, as ids within the limits."""

    def __init__(self, tokenizer: Tokenizer, limits: checks.Limits, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._vocabulary_size = vocabulary_size
        self._thread = ThreadPoolExecutor(1, "tokenizer")

    async def encode(self, given: Input) -> tuple[int, ...]:
        """Raises InvalidRequest for a text of too many bytes, too many tokens, or ids that there are not."""
        if not isinstance(given, str):
            checks.check_length(given, self._limits)
            checks.check_ids("input.tokens", given, self._vocabulary_size)
            return tuple(given)
        checks.check_text(given, self._limits)
        if len(given) <= _SHORT_CHARACTERS:
            ids = tuple(self._tokenizer.encode(given))
        else:
            ids = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode_long, given)
        checks.check_length(ids, self._limits)
        return ids

    def close(self) -> None:
        """Without waiting for texts that nobody wants any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encode_long(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_aside(text))
