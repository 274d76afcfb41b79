"""The checks of a request's bounds. They raise InvalidRequest with the field's name on the wire."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from carousel.errors import InvalidRequest, PositionMismatch
from carousel.sessions.requests import GenerationRequest, PredictionRequest, ScoringRequest
from carousel.settings import Settings
from carousel.turns import SAMPLING_SPANS, SamplingOptions

MAX_STOPS = 16
MAX_BRANCHES = 16
MAX_STOP_BYTES = 256
MAX_BIASES = 1024
MAX_LOG_PROBABILITIES = 64
MAX_CANDIDATES = 256
MAX_WORDS = 32
MAX_PREFIX_BYTES = 64
MAX_FORKS = 100
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request."""

    max_input_tokens: int
    max_generated_tokens: int
    max_input_bytes: int
    max_answer_items: int
    max_stop_ids: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(
            max_input_tokens=settings.max_input_tokens,
            max_generated_tokens=settings.max_generated_tokens,
            max_input_bytes=settings.max_input_bytes,
            max_answer_items=settings.max_answer_items,
            max_stop_ids=settings.max_stop_ids,
        )


def is_name(text: str) -> bool:
    """Whether the text is a valid session id or checkpoint name."""
    return _NAME.fullmatch(text) is not None


def check_generation(request: GenerationRequest, limits: Limits, vocabulary_size: int) -> None:
    _within("max_tokens", request.max_tokens, 0, limits.max_generated_tokens)
    _within("n", request.num_branches, 1, MAX_BRANCHES)
    _within("num_log_probabilities", request.num_log_probabilities, 0, MAX_LOG_PROBABILITIES)
    num_items = request.num_branches * request.max_tokens * (1 + request.num_log_probabilities)
    if num_items > limits.max_answer_items:
        text = f"n x max_tokens x (1 + num_log_probabilities) is {num_items}; at most {limits.max_answer_items}"
        raise InvalidRequest("max_tokens", f"{text} (max_answer_items)")
    if len(request.stop) > MAX_STOPS:
        raise InvalidRequest("stop", f"at most {MAX_STOPS} stop strings, not {len(request.stop)}")
    for index, stop in enumerate(request.stop):
        _within(f"stop[{index}]", len(stop.encode()), 1, MAX_STOP_BYTES, unit=" bytes")
    if len(request.stop_ids) > limits.max_stop_ids:
        text = f"at most {limits.max_stop_ids} (max_stop_ids), not {len(request.stop_ids)}"
        raise InvalidRequest("stop_ids", text)
    check_ids("stop_ids", request.stop_ids, vocabulary_size)
    _check_sampling(request.sampling, vocabulary_size)


def check_prediction(request: PredictionRequest) -> None:
    _within("k", request.num_candidates, 0, MAX_CANDIDATES)
    _within("num_words", request.num_words, 0, MAX_WORDS)
    _within("word_prefix", len((request.word_prefix or "").encode()), 0, MAX_PREFIX_BYTES, unit=" bytes")


def check_scoring(request: ScoringRequest, vocabulary_size: int) -> None:
    check_num_candidates(request.num_candidates)
    _within("g", request.num_top, 1, max(vocabulary_size, ScoringRequest().num_top))  # the default always passes


def check_num_candidates(num_candidates: int) -> None:
    """Checks how many of the likeliest tokens are asked in each token's place."""
    _within("num_candidates", num_candidates, 0, MAX_LOG_PROBABILITIES)


def check_scored_items(num_tokens: int, request: ScoringRequest, limits: Limits) -> None:
    if request.num_candidates and (num_items := num_tokens * (1 + request.num_candidates)) > limits.max_answer_items:
        text = f"tokens x (1 + num_candidates) is {num_items}; at most {limits.max_answer_items} (max_answer_items)"
        raise InvalidRequest("num_candidates", text)


def check_text(text: str, limits: Limits) -> None:
    """Checks the text's length before it is tokenized."""
    num_bytes = len(text) if text.isascii() else len(text.encode(errors="replace"))
    if num_bytes > limits.max_input_bytes:
        text = f"{num_bytes} bytes of text; at most {limits.max_input_bytes} in one request (max_input_bytes)"
        raise InvalidRequest("input", text)


def check_length(ids: Sequence[int], limits: Limits) -> None:
    if len(ids) > limits.max_input_tokens:
        text = f"{len(ids)} tokens; at most {limits.max_input_tokens} in one request (max_input_tokens)"
        raise InvalidRequest("input", text)


def check_ids(field: str, ids: Sequence[int], vocabulary_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocabulary_size):
        wrong = next(index for index in ids if not 0 <= index < vocabulary_size)
        raise InvalidRequest(field, f"token id {wrong} is not in the vocabulary of {vocabulary_size}")


def check_position(position: int, expected_position: int | None) -> None:
    """Raises PositionMismatch, with the current position, if the caller expects another one."""
    if expected_position is not None and expected_position != position:
        raise PositionMismatch(expected_position, position)


def _check_sampling(sampling: SamplingOptions, vocabulary_size: int) -> None:
    for name, span in SAMPLING_SPANS.items():
        _within(f"sampling.{name}", getattr(sampling, name), span.low, span.high, above=span.above)
    if len(sampling.logit_bias) > MAX_BIASES:
        raise InvalidRequest("sampling.logit_bias", f"at most {MAX_BIASES} entries, not {len(sampling.logit_bias)}")
    check_ids("sampling.logit_bias", [index for index, _ in sampling.logit_bias], vocabulary_size)
    for index, bias in sampling.logit_bias:
        _within(f"sampling.logit_bias[{index}]", bias, -100, 100)


def _within(field: str, value: float, low: float, high: float, *, above: bool = False, unit: str = "") -> None:
    """Checks the bounds, which include `low` unless `above` is set. NaN always fails."""
    if not (low < value <= high if above else low <= value <= high):
        bounds = f"above {low} up to {high:g}" if above else f"from {low} to {high:g}"
        raise InvalidRequest(field, f"must be {bounds}{unit}, not {value:g}")
