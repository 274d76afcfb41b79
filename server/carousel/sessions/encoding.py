"""Text to tokens and back without blocking the event loop: short texts at once, long texts in a thread.

All owners share the one thread. Long texts wait for each other, owner by owner; short texts never wait for them.
"""

from collections.abc import Sequence
from functools import partial

from carousel.bundle.chat import ChatFormat, Message, MessagesRefused
from carousel.bundle.tokenizer import Tokenizer
from carousel.errors import InvalidRequest
from carousel.sessions import checks
from carousel.sessions.fair_thread import FairThread
from carousel.sessions.requests import Input

_SHORT_CHARACTERS = 2_048  # about a millisecond
_FEW_MESSAGES = 16
_IDS_PER_SLICE = 2_048  # a tenth of a millisecond, for which the event loop may wait


class Encoder:
    """Turns callers' input into token ids within the limits."""

    def __init__(self, tokenizer: Tokenizer, limits: checks.Limits, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._vocabulary_size = vocabulary_size
        self._thread = FairThread("tokenizer")

    async def encode(self, given: Input, owner: str = "") -> tuple[int, ...]:
        """Returns the ids. Raises InvalidRequest for too many bytes, too many tokens, or ids not in the vocabulary."""
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

    async def decode(self, ids: Sequence[int], owner: str = "") -> str:
        """Returns the text. Raises InvalidRequest for ids not in the vocabulary. The ids must not change meanwhile."""
        if len(ids) <= _IDS_PER_SLICE:
            checks.check_ids("ids", ids, self._vocabulary_size)
            return self._tokenizer.decode(ids)
        slices = (partial(self._spell_slice, ids, first) for first in range(0, len(ids), _IDS_PER_SLICE))
        return b"".join(await self._thread.run_parts(owner, slices)).decode(errors="replace")

    async def render(self, chat: ChatFormat, messages: Sequence[Message], owner: str = "") -> str:
        """Returns the conversation as text, up to where an answer begins. Raises InvalidRequest."""
        work = partial(chat.render, messages, max_bytes=self._limits.max_input_bytes)
        is_short = sum(len(message.content) for message in messages) <= _SHORT_CHARACTERS
        try:
            if is_short and len(messages) <= _FEW_MESSAGES:
                return work()
            return await self._thread.run(owner, work)
        except MessagesRefused as error:
            raise InvalidRequest("messages", str(error)) from error

    def close(self) -> None:
        """Closes without waiting for texts whose callers are gone."""
        self._thread.close()

    def _spell_slice(self, ids: Sequence[int], first: int) -> bytes:
        part = ids[first : first + _IDS_PER_SLICE]
        checks.check_ids("ids", part, self._vocabulary_size)
        return self._tokenizer.spell(part)

    def _encode_long(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_aside(text))
