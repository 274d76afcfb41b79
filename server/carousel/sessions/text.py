"""From tokens to streamed text: whole characters only, and nothing that may become part of a stop string."""

import collections
from collections.abc import Sequence

from carousel.bundle.tokenizer import TextDecoder, Tokenizer

_LONGEST_UNFINISHED = 3  # bytes of a character that lacks its last byte


class StopFinder:
    """Looks for stop strings, once, in the engine's thread, and leaves the result for the stream that hands out the
    text. A text ends before the earliest stop that a token completes; of stops with the same start, the longest counts.
    """

    def __init__(self, tokenizer: Tokenizer, tail: bytes, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tail)
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""  # the end of the text, where a stop may begin
        self._num_settled = 0  # characters that no stop can claim
        self.settled: collections.deque[int] = collections.deque()  # the same after each token not yet taken
        self.stop = ""  # the stop string that appeared

    def push(self, token_id: int) -> bool:
        """Adds a token. Returns whether a stop string is complete now."""
        text = self._held + self._decoder.push(self._tokenizer.token_bytes(token_id))
        found = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, _, self.stop = min(found)
        else:
            at = self._first_claimed(text)
        self._held = text[at:]
        self._num_settled += at
        self.settled.append(self._num_settled)
        return bool(found)

    def _first_claimed(self, text: str) -> int:
        """Returns the start of the longest end of the text with which a stop begins. Skips text that is settled or too
        far back for any stop, so that a text costs one comparison per character and stop."""
        at = max(0, len(text) - self._longest)
        while at < len(text) and not any(stop.startswith(text[at:]) for stop in self._stops):
            at += 1
        return at


class TextStream:
    """Decodes a generation: `push_all` adds tokens, `pop_final` returns the text that became final since. A finder must
    see each token first."""

    def __init__(self, tokenizer: Tokenizer, tail: bytes, finder: StopFinder | None = None) -> None:
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tail)
        self._finder = finder
        self._pending = ""  # decoded, not taken
        self._num_taken = 0
        self._num_settled = 0

    def push_all(self, token_ids: Sequence[int]) -> None:
        self._pending += self._decoder.push(b"".join(map(self._tokenizer.token_bytes, token_ids)))
        if self._finder is not None:
            for _ in token_ids:
                self._num_settled = self._finder.settled.popleft()

    def pop_final(self) -> str:
        """Returns the text that can no longer be part of a stop string."""
        cut = len(self._pending) if self._finder is None else self._num_settled - self._num_taken
        text, self._pending = self._pending[:cut], self._pending[cut:]
        self._num_taken += len(text)
        return text

    def finish(self) -> str:
        """Returns the rest, held back or not, up to the stop if there is one. Half a character waits for the session's
        next turn."""
        text = self.pop_final() if self._finder is not None and self._finder.stop else self._pending
        self._pending = ""
        return text


def pending_bytes(tokenizer: Tokenizer, tail: bytes, ids: Sequence[int]) -> bytes:
    """Returns the bytes of an unfinished character at the end of `tail` and the tokens. Looks only at the last few
    bytes: a character's first byte is never inside another character."""
    if not ids:
        return tail
    end = tokenizer.token_bytes(ids[-1])
    if end and end[-1] < 0x80:
        return b""  # no character continues after an ASCII byte
    for at in range(len(ids) - 2, -1, -1):
        if len(end) >= _LONGEST_UNFINISHED:
            break
        end = tokenizer.token_bytes(ids[at]) + end
    if len(end) < _LONGEST_UNFINISHED:
        end = tail + end
    decoder = TextDecoder()
    decoder.push(end[-_LONGEST_UNFINISHED:])
    return decoder.tail
