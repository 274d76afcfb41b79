"""Text to tokens without holding the event loop up: short texts at once, long ones in a thread.

The thread is one for all: long texts wait for each other, owner by owner, and nobody waits for them.
"""

from functools import partial

from carousel.bundle.tokenizer import Tokenizer
from carousel.sessions import checks
from carousel.sessions.fair_thread import FairThread
from carousel.sessions.requests import Input

_SHORT_CHARACTERS = 2_048  # about a millisecond


class Encoder:
    """What callers feed, as ids within the limits."""

    def __init__(self, tokenizer: Tokenizer, limits: checks.Limits, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._vocabulary_size = vocabulary_size
        self._thread = FairThread("tokenizer")

    async def encode(self, given: Input, owner: str = "") -> tuple[int, ...]:
        """Raises InvalidRequest for a text of too many bytes, too many tokens, or ids that there are not."""
        if not isinstance(given, str):
            checks.check_length(given, self._limits)
            checks.check_ids("input.tokens", given, self._vocabulary_size)
            return tuple(given)
        checks.check_text(given, self._limits)
        if len(given) <= _SHORT_CHARACTERS:
            ids = tuple(self._tokenizer.encode(given))
        else:
            ids = await self._thread.run(owner, partial(self._encode_long, given))
        checks.check_length(ids, self._limits)
        return ids

    def close(self) -> None:
        """Without waiting for texts that nobody wants any more."""
        self._thread.close()

    def _encode_long(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_aside(text))
