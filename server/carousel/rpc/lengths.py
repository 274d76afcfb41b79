"""Refuses lists that are too long before they are copied: copying a megabyte takes 20 ms of the event loop.

The errors name the field. `sessions` checks the lengths again, together with the values.
"""

from collections.abc import Sized

from carousel.errors import InvalidRequest
from carousel.sessions import checks, inspection
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, types_pb2


def check_generation(message: wire.GenerateRequest, limits: checks.Limits) -> None:
    check_input(message.input, limits)
    _at_most("stop", message.stop, checks.MAX_STOPS)
    _at_most("stop_ids", message.stop_ids, limits.max_stop_ids, "max_stop_ids")
    _at_most("sampling.logit_bias", message.sampling.logit_bias, checks.MAX_BIASES)


def check_input(message: types_pb2.Input, limits: checks.Limits) -> None:
    _at_most("input", message.tokens.ids, limits.max_input_tokens, "max_input_tokens")


def check_ids(field: str, ids: Sized, limits: checks.Limits) -> None:
    _at_most(field, ids, limits.max_input_tokens, "max_input_tokens")


def check_inspection(message: sessions_pb2.InspectSessionRequest, num_tensors: int) -> None:
    """`num_tensors` is how many the model's state has."""
    _at_most("input", message.input.tokens.ids, inspection.MAX_TOKENS)
    _at_most("tensors", message.tensors, num_tensors)


def check_fork(message: sessions_pb2.ForkSessionRequest) -> None:
    _at_most("new_session_ids", message.new_session_ids, checks.MAX_FORKS)


def _at_most(field: str, given: Sized, bound: int, name: str = "") -> None:
    if len(given) > bound:
        setting = f" ({name})" if name else ""
        raise InvalidRequest(field, f"at most {bound}{setting}, not {len(given)}")
