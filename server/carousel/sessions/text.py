"""From tokens to text as it streams: whole characters only, and nothing that may turn out to be a stop string."""

from collections.abc import Sequence

from carousel.bundle.tokenizer import TextDecoder, Tokenizer


class TextStream:
    """Decodes a generation. `push` each token; `take` what has become final since the last take."""

    def __init__(self, tokenizer: Tokenizer, tail: bytes, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tail)
        self._stops = stops
        self._longest_stop = max((len(stop) for stop in stops), default=0)
        self._pending = ""  # decoded, not taken
        self.stop = ""  # the stop string that appeared

    def push(self, token_id: int) -> bool:
        """Whether a stop string is complete now. The text ends before the earliest one, the longest among equals."""
        since = max(0, len(self._pending) - self._longest_stop + 1)  # no stop was complete before this token
        self._pending += self._decoder.push(self._tokenizer.token_bytes(token_id))
        places = ((self._pending.find(stop, since), -len(stop), stop) for stop in self._stops)
        found = [place for place in places if place[0] >= 0]
        if found:
            start, _, self.stop = min(found)
            self._pending = self._pending[:start]
        return bool(found)

    def push_all(self, token_ids: Sequence[int]) -> None:
        """Tokens of which none but the last can complete a stop string."""
        if self._stops:
            for token_id in token_ids:
                self.push(token_id)
        else:
            self._pending += self._decoder.push(b"".join(map(self._tokenizer.token_bytes, token_ids)))

    def take(self) -> str:
        """Text that no stop string can claim any more."""
        num_held = _num_held(self._pending, self._stops) if self._stops and not self.stop else 0
        cut = len(self._pending) - num_held
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text

    def finish(self) -> str:
        """The rest, held back or not; half a character stays for the session's next turn to complete."""
        text, self._pending = self._pending, ""
        return text


class StopFinder:
    """Tells which token completes a stop string. The engine asks it in its own thread, so it shares nothing with the
    stream that hands out the text."""

    def __init__(self, tokenizer: Tokenizer, tail: bytes, stops: Sequence[str]) -> None:
        self._stream = TextStream(tokenizer, tail, stops)

    def push(self, token_id: int) -> bool:
        """Whether a stop string is complete now."""
        is_found = self._stream.push(token_id)
        self._stream.take()
        return is_found


def pending_bytes(tokenizer: Tokenizer, tail: bytes, ids: Sequence[int]) -> bytes:
    """The bytes of an unfinished character that stand at the end after `tail` and the tokens."""
    if not ids:
        return tail
    last = tokenizer.token_bytes(ids[-1])
    if last and last[-1] < 0x80:
        return b""  # no character goes on beyond an ASCII byte
    decoder = TextDecoder(tail)
    for index in ids:
        decoder.push(tokenizer.token_bytes(index))
    return decoder.tail


def _num_held(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a stop string begins."""
    longest = min(len(text), max((len(stop) - 1 for stop in stops), default=0))
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
