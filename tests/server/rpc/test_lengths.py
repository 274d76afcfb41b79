"""Lists that are too long are refused before anybody copies them, under the names that the wire gives them."""

import pytest
from tests.bounds import make_limits

from carousel.errors import InvalidRequest
from carousel.rpc import lengths
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, types_pb2

LIMITS = make_limits(max_input_tokens=5, max_generated_tokens=9, max_stop_ids=3)


def given(num_tokens: int) -> types_pb2.Input:
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=[1] * num_tokens))


@pytest.mark.parametrize(
    ("message", "field", "said"),
    [
        (wire.GenerateRequest(input=given(6)), "input", "at most 5 (max_input_tokens), not 6"),
        (wire.GenerateRequest(stop_ids=[1] * 4), "stop_ids", "at most 3 (max_stop_ids), not 4"),
        (wire.GenerateRequest(stop=["a"] * 17), "stop", "at most 16, not 17"),
        (
            wire.GenerateRequest(sampling=wire.Sampling(logit_bias=dict.fromkeys(range(1025), 1))),
            "sampling.logit_bias",
            "at most 1024, not 1025",
        ),
    ],
)
def test_a_list_too_long_is_named(message: wire.GenerateRequest, field: str, said: str) -> None:
    """With the bound, and the setting where there is one."""
    with pytest.raises(InvalidRequest) as refused:
        lengths.check_generation(message, LIMITS)
    assert (refused.value.field, str(refused.value)) == (field, f"{field}: {said}")


def test_the_bounds_themselves_pass() -> None:
    """All lists at their longest, and a text, whose length is another matter."""
    sampling = wire.Sampling(logit_bias=dict.fromkeys(range(1024), 1))
    full = wire.GenerateRequest(input=given(5), stop_ids=[1] * 3, stop=["a"] * 16, sampling=sampling)
    lengths.check_generation(full, LIMITS)
    lengths.check_input(types_pb2.Input(text="a" * 100), LIMITS)
    lengths.check_fork(sessions_pb2.ForkSessionRequest(new_session_ids=["a"] * 100))
    lengths.check_ids("ids", [1] * 5, LIMITS)


def test_forks_and_ids_are_bounded_too() -> None:
    """By their own names."""
    with pytest.raises(InvalidRequest, match="^new_session_ids: at most 100, not 101"):
        lengths.check_fork(sessions_pb2.ForkSessionRequest(new_session_ids=["a"] * 101))
    with pytest.raises(InvalidRequest, match="^ids: at most 5"):
        lengths.check_ids("ids", [1] * 6, LIMITS)
