"""Every call of the wire contract as a value: what to send, where, and how to read the answer.

The blocking and the asyncio client both use these. Only this module and `session_calls` build requests; only `answers`
reads answers.
"""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from grpc_health.v1 import health_pb2

from carousel.client.core import answers
from carousel.client.core.options import Prompt
from carousel.client.core.results import ModelInfo, Piece, Prediction, ScorePiece, Token
from carousel.client.core.stubs import HEALTH, MODELS, MakeStub
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import types_pb2

Answer = TypeVar("Answer", covariant=True)

_SAMPLING = frozenset(field.name for field in lm.Sampling.DESCRIPTOR.fields)
_CONTENTS = {name: lm.GenerateRequest.Content.Value(f"CONTENT_{name.upper()}") for name in ("text", "ids", "both")}


class Call(NamedTuple, Generic[Answer]):
    """One call, not yet made. `request` is None where the caller sends a stream."""

    stub: MakeStub
    method: str
    request: Any
    parse: Callable[[Any], Answer]
    session_id: str = ""


def identify(options: dict[str, Any]) -> dict[str, Any]:
    """Adds a `request_id`: the caller's own, or a new one. A retry sends the same call, so the id stays the same."""
    return {**options, "request_id": options.get("request_id") or _fresh_id()}


def generate(prompt: Prompt, session_id: str, model: str, turn_options: dict[str, Any]) -> Call[Piece]:
    """`turn_options` come from `split_options`."""
    sampling = {key: value for key, value in turn_options.items() if key in _SAMPLING}
    rest = {key: value for key, value in turn_options.items() if key not in _SAMPLING}
    if isinstance(stop := rest.get("stop"), str):
        rest["stop"] = [stop]
    if "content" in rest:
        rest["content"] = _content(rest["content"])
    request = lm.GenerateRequest(
        session_id=session_id, model=model, input=make_input(prompt), sampling=lm.Sampling(**sampling), **rest
    )
    return Call(MODELS, "Generate", request, answers.piece, session_id)


def predict(session_id: str, request: Any = None) -> Call[Prediction]:
    """The stream, or one message on it, which `predict_request` builds."""
    return Call(MODELS, "Predict", request, answers.prediction, session_id)


def predict_request(prompt: Prompt, session_id: str, model: str, turn_options: dict[str, Any]) -> Any:
    request = lm.PredictRequest(session_id=session_id, model=model, **turn_options)
    if not prompt:
        request.input.SetInParent()
    elif isinstance(prompt, str):
        request.input.text = prompt
    else:
        request.input.tokens.ids.extend(prompt)
    return request


def predict_many() -> Call[Any]:
    """A stream that carries the messages of many sequences; each message names its sequence."""
    return Call(MODELS, "PredictMany", None, lambda answer: answer)


def score(
    prompt: Prompt, session_id: str, model: str, top_g: int | None, turn_options: dict[str, Any]
) -> Call[ScorePiece]:
    request = lm.ScoreRequest(session_id=session_id, model=model, input=make_input(prompt), g=top_g, **turn_options)
    return Call(MODELS, "Score", request, answers.score_piece, session_id)


def tokenize(text: str, model: str) -> Call[tuple[Token, ...]]:
    return Call(MODELS, "Tokenize", lm.TokenizeRequest(model=model, text=text), answers.tokens)


def detokenize(ids: Iterable[int], model: str) -> Call[str]:
    return Call(MODELS, "Detokenize", lm.DetokenizeRequest(model=model, ids=ids), lambda answer: str(answer.text))


def models() -> Call[tuple[ModelInfo, ...]]:
    return Call(MODELS, "ListModels", lm.ListModelsRequest(), lambda answer: tuple(map(answers.model, answer.models)))


def model(name: str) -> Call[ModelInfo]:
    return Call(MODELS, "GetModel", lm.GetModelRequest(model=name), answers.model)


def health(service: str) -> Call[bool]:
    serving = health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest(service=service)
    return Call(HEALTH, "Check", request, lambda answer: bool(answer.status == serving))


def _fresh_id() -> str:
    """Returns a random UUID. Many are made at once, because each read of random bytes is a system call."""
    spare = _spare_ids()
    while not spare:
        digits = os.urandom(16 * 256).hex()
        for one in (digits[at : at + 32] for at in range(0, len(digits), 32)):
            spare.append(f"{one[:12]}4{one[13:16]}a{one[17:]}")
    return spare.pop()


@functools.cache
def _spare_ids() -> list[str]:
    """Returns the spare ids of this process; a forked child starts with none."""
    spare: list[str] = []
    os.register_at_fork(after_in_child=spare.clear)
    return spare


def make_input(prompt: Prompt) -> types_pb2.Input:
    if not prompt:
        return types_pb2.Input()
    if isinstance(prompt, str):
        return types_pb2.Input(text=prompt)
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=prompt))


def _content(name: str) -> Any:
    if name not in _CONTENTS:
        raise ValueError(f"content: must be one of {', '.join(_CONTENTS)}, not {name!r}")
    return _CONTENTS[name]
