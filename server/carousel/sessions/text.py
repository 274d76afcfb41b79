"""From tokens to text as it streams: whole characters only, and nothing that may turn out to be a stop string."""

import collections
from collections.abc import Sequence

from carousel.bundle.tokenizer import TextDecoder, Tokenizer

_LONGEST_UNFINISHED = 3  # bytes of a character of which one is missing


class StopFinder:
    """Looks for stop strings, once, in the engine's thread; what it found is left for the stream that hands out the
    text. A text ends before the earliest stop that a token completes, the longest among those that begin together.
    """

    def __init__(self, tokenizer: Tokenizer, tail: bytes, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tail)
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""  # the end of the text, with which a stop may begin
        self._num_settled = 0  # characters that no stop can claim
        self.settled: collections.deque[int] = collections.deque()  # the same after each token that nobody took yet
        self.stop = ""  # the stop string that appeared

    def push(self, token_id: int) -> bool:
        """Whether a stop string is complete now."""
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
        """Where the longest end begins with which a stop begins. What was given up once is not looked at again, so
        that a text costs each character's look at each stop and no more; nor is what is longer than any stop."""
        at = max(0, len(text) - self._longest)
        while at < len(text) and not any(stop.startswith(text[at:]) for stop in self._stops):
            at += 1
        return at


class TextStream:
    """Decodes a generation: `push_all` tokens, `pop_final` what has become final since the last time. With a finder,
    which has seen each token before."""

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
        """Text that no stop string can claim any more."""
        cut = len(self._pending) if self._finder is None else self._num_settled - self._num_taken
        text, self._pending = self._pending[:cut], self._pending[cut:]
        self._num_taken += len(text)
        return text

    def finish(self) -> str:
        """The rest, held back or not, up to the stop if there is one; half a character stays for the session's next
        turn to complete."""
        text = self.pop_final() if self._finder is not None and self._finder.stop else self._pending
        self._pending = ""
        return text


def pending_bytes(tokenizer: Tokenizer, tail: bytes, ids: Sequence[int]) -> bytes:
    """The bytes of an unfinished character that stand at the end after `tail` and the tokens. Only the last few bytes
    are looked at: a first byte of a character is never inside another one."""
    if not ids:
        return tail
    end = tokenizer.token_bytes(ids[-1])
    if end and end[-1] < 0x80:
        return b""  # no character goes on beyond an ASCII byte
    for at in range(len(ids) - 2, -1, -1):
        if len(end) >= _LONGEST_UNFINISHED:
            break
        end = tokenizer.token_bytes(ids[at]) + end
    if len(end) < _LONGEST_UNFINISHED:
        end = tail + end
    decoder = TextDecoder()
    decoder.push(end[-_LONGEST_UNFINISHED:])
    return decoder.tail
