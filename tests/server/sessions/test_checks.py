"""Every number a caller sends has bounds; at the bound it passes, beyond it the error names the field."""

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.bounds import make_limits

from carousel.errors import InvalidRequest
from carousel.sessions import checks
from carousel.sessions.requests import GenerationRequest, PredictionRequest, ScoringRequest
from carousel.turns import SamplingOptions

LIMITS = make_limits(max_input_tokens=10, max_generated_tokens=100, max_input_bytes=20, max_stop_ids=3)
V = 50


def check_generation(**changes: Any) -> None:
    checks.check_generation(replace(GenerationRequest(max_tokens=1), **changes), LIMITS, V)


def check_sampling(**changes: Any) -> None:
    check_generation(sampling=replace(SamplingOptions(), **changes))


GENERATION = [
    ("max_tokens", (0, 1, 100), (-1, 101)),
    ("num_branches", (1, 16), (0, -1, 17)),
    ("num_log_probabilities", (0, 64), (-1, 65)),
    ("stop_ids", ((), (0,), (49, 0, 1)), ((-1,), (50,), (3, 50), (1, 2, 3, 4))),
    ("stop", ((), ("x",) * 16, ("é" * 128,)), (("x",) * 17,)),
]
SAMPLING = [
    ("temperature", (0.0, 1e-45, 1.0, 100.0), (-0.001, 100.1, math.nan, math.inf, -math.inf)),
    ("top_k", (0, 1, 2**31 - 1), (-1,)),
    ("top_p", (1e-45, 0.5, 1.0), (0.0, -0.1, 1.001, math.nan, math.inf)),
    ("min_p", (0.0, 0.5, 1.0), (-0.1, 1.001, math.nan, math.inf)),
    ("repetition_penalty", (1e-45, 1.0, 100.0), (0.0, -1.0, 100.1, math.nan, math.inf)),
    ("presence_penalty", (-100.0, 0.0, 100.0), (-100.1, 100.1, math.nan, math.inf, -math.inf)),
    ("frequency_penalty", (-100.0, 0.0, 100.0), (-100.1, 100.1, math.nan, math.inf, -math.inf)),
    ("logit_bias", ((), ((0, 100.0), (49, -100.0))), (((50, 0.0),), ((-1, 0.0),))),
]


@pytest.mark.parametrize(("field", "good", "bad"), GENERATION)
def test_a_generation_is_bounded(field: str, good: tuple[object, ...], bad: tuple[object, ...]) -> None:
    """Each field of a GenerateRequest passes at its bounds and is named beyond them."""
    for value in good:
        check_generation(**{field: value})
    for value in bad:
        with pytest.raises(InvalidRequest) as refused:
            check_generation(**{field: value})
        name = "n" if field == "num_branches" else field
        assert refused.value.field == name
        assert str(refused.value).startswith(f"{name}: ")


@pytest.mark.parametrize(("field", "good", "bad"), SAMPLING)
def test_sampling_is_bounded(field: str, good: tuple[object, ...], bad: tuple[object, ...]) -> None:
    """Each sampling option passes at its bounds and is named beyond them; what is not a number is beyond."""
    for value in good:
        check_sampling(**{field: value})
    for value in bad:
        with pytest.raises(InvalidRequest) as refused:
            check_sampling(**{field: value})
        assert refused.value.field == f"sampling.{field}"


@pytest.mark.parametrize("stop", ["", "x" * 257, "é" * 129])
def test_a_stop_string_has_a_length(stop: str) -> None:
    """An empty stop, or one of more than 256 bytes, is refused by its index."""
    with pytest.raises(InvalidRequest) as refused:
        check_generation(stop=("fine", stop))
    assert refused.value.field == "stop[1]"


@pytest.mark.parametrize("bias", [100.1, -100.1, math.nan, math.inf])
def test_a_bias_is_bounded(bias: float) -> None:
    """The bad bias is named by its token."""
    with pytest.raises(InvalidRequest) as refused:
        check_sampling(logit_bias=((3, 0.0), (7, bias)))
    assert refused.value.field == "sampling.logit_bias[7]"


def test_biases_are_counted() -> None:
    """1,024 entries pass, one more does not."""
    request = GenerationRequest(max_tokens=1, sampling=SamplingOptions(logit_bias=tuple((n, 0.0) for n in range(1025))))
    with pytest.raises(InvalidRequest, match="1025"):
        checks.check_generation(request, LIMITS, 2000)
    fewer = replace(request, sampling=SamplingOptions(logit_bias=request.sampling.logit_bias[1:]))
    checks.check_generation(fewer, LIMITS, 2000)


@pytest.mark.parametrize(
    ("field", "name", "good", "bad"),
    [
        ("num_candidates", "k", (0, 256), (-1, 257)),
        ("num_words", "num_words", (0, 32), (-1, 33)),
        ("word_prefix", "word_prefix", (None, "", "é" * 32), ("é" * 32 + "x",)),
    ],
)
def test_a_prediction_is_bounded(field: str, name: str, good: tuple[object, ...], bad: tuple[object, ...]) -> None:
    """Each field of a PredictRequest passes at its bounds and is named, as on the wire, beyond them."""
    for value in good:
        checks.check_prediction(replace(PredictionRequest(), **{field: value}))  # type: ignore[arg-type]
    for value in bad:
        with pytest.raises(InvalidRequest) as refused:
            checks.check_prediction(replace(PredictionRequest(), **{field: value}))  # type: ignore[arg-type]
        assert refused.value.field == name


def test_a_scoring_is_bounded() -> None:
    """g is from 1 to the size of the vocabulary."""
    for g in (1, V):
        checks.check_scoring(ScoringRequest(num_top=g), V)
    for g in (0, -1, V + 1):
        with pytest.raises(InvalidRequest, match="^g: "):
            checks.check_scoring(ScoringRequest(num_top=g), V)


def test_the_default_requests_fit_the_smallest_vocabulary() -> None:
    """A caller who sends nothing special is not refused because the vocabulary is small."""
    checks.check_scoring(ScoringRequest(), 3)
    checks.check_prediction(PredictionRequest())


def test_input_is_bounded_in_bytes_length_and_vocabulary() -> None:
    """As many bytes or tokens as the limit pass, one more does not, and each id must be in the vocabulary."""
    checks.check_length((0, 49) * 5, LIMITS)
    with pytest.raises(InvalidRequest, match=r"^input: 11 tokens; at most 10 .*max_input_tokens"):
        checks.check_length((0,) * 11, LIMITS)
    for text in ("x" * 20, "é" * 10):
        checks.check_text(text, LIMITS)
        with pytest.raises(InvalidRequest, match=r"^input: 21 bytes of text; at most 20 .*max_input_bytes"):
            checks.check_text(text + "x", LIMITS)
    checks.check_ids("input.tokens", (), V)
    checks.check_ids("input.tokens", (0, 49), V)
    for bad in (-1, 50, 2**31 - 1):
        with pytest.raises(InvalidRequest, match=rf"^input\.tokens: token id {bad} .*vocabulary of 50"):
            checks.check_ids("input.tokens", (0, bad, 1), V)


@pytest.mark.parametrize(("n", "max_tokens", "num_log_probabilities"), [(16, 100, 2), (1, 100, 63), (2, 100, 40)])
def test_an_answer_is_bounded_as_a_whole(n: int, max_tokens: int, num_log_probabilities: int) -> None:
    """n x max_tokens x (1 + num_log_probabilities) passes at the bound; beyond it the bound is named."""
    request = GenerationRequest((), SamplingOptions(), max_tokens, n, (), (), num_log_probabilities)
    num_items = n * max_tokens * (1 + num_log_probabilities)
    checks.check_generation(request, replace(LIMITS, max_answer_items=num_items), V)
    with pytest.raises(InvalidRequest, match=rf"^max_tokens: .* is {num_items}; .*max_answer_items"):
        checks.check_generation(request, replace(LIMITS, max_answer_items=num_items - 1), V)
