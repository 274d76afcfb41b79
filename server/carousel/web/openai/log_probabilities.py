"""`logprobs` of a completion, in lists that are as long as the tokens: texts, log-probabilities, alternatives, offsets;
and of a chat, one list of all these.

Two tokens of other bytes never share a text: bytes that are no text of their own are spelled `bytes:\\xNN`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from carousel.bundle.tokenizer import TextDecoder, Tokenizer
from carousel.sessions.requests import ScoredToken
from carousel.turns import Candidate, Generated
from carousel.web.spelling import spell


class LogProbabilities:
    """Writes the lists for one choice, piece by piece."""

    def __init__(self, tokenizer: Tokenizer, num_top: int, tail: bytes = b"") -> None:
        """`tail` is the incomplete character at the end of the prompt."""
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._decoder = TextDecoder(tail)
        self._offset = 0  # in characters of the shown text; a character counts where it becomes complete

    def of_generated(self, tokens: Iterable[Generated]) -> dict[str, Any]:
        rated = [(one.id, one.log_probability or 0.0, one.candidates) for one in tokens]
        return self._lists(rated, self._decoder)

    def of_scored(self, tokens: Iterable[ScoredToken]) -> dict[str, Any]:
        """Takes the whole prompt, which is shown with U+FFFD for an incomplete character at its end."""
        decoder = TextDecoder()
        found = self._lists([(one.id, one.log_probability, one.candidates) for one in tokens], decoder)
        self._offset += len(decoder.flush())
        return found

    def _lists(self, tokens: Sequence[tuple[int, float, Sequence[Candidate]]], decoder: TextDecoder) -> dict[str, Any]:
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for index, log_probability, candidates in tokens:
            found["tokens"].append(spell(self._tokenizer, index))
            found["token_logprobs"].append(log_probability)
            found["top_logprobs"].append(self._top(index, log_probability, candidates))
            found["text_offset"].append(self._offset)
            self._offset += len(decoder.push(self._tokenizer.token_bytes(index)))
        return found

    def _top(self, index: int, log_probability: float, candidates: Sequence[Candidate]) -> dict[str, float] | None:
        """The likeliest, and the chosen one wherever it stands: clients look for it there."""
        if not self._num_top:
            return None
        top = {spell(self._tokenizer, one.id): one.log_probability for one in candidates[: self._num_top]}
        return top | {spell(self._tokenizer, index): log_probability}


def list_contents(tokenizer: Tokenizer, tokens: Iterable[Generated], num_top: int) -> list[dict[str, Any]]:
    """Returns what a chat tells of its tokens. The alternatives are the likeliest, without the chosen one where it is
    none of them."""
    return [
        _describe(tokenizer, one.id, one.log_probability or 0.0)
        | {
            "top_logprobs": [
                _describe(tokenizer, other.id, other.log_probability) for other in one.candidates[:num_top]
            ]
        }
        for one in tokens
    ]


def _describe(tokenizer: Tokenizer, index: int, log_probability: float) -> dict[str, Any]:
    content = tokenizer.token_bytes(index)
    return {"token": spell(tokenizer, index), "logprob": log_probability, "bytes": list(content)}
