"""Every call of the wire contract as a value: what to send, where, and how to read the answer.

The blocking and the asyncio client both run these, so requests and answers are translated in this module alone.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC
from typing import Any, Generic, Literal, TypedDict, TypeVar

from grpc_health.v1 import health_pb2, health_pb2_grpc

from carousel.client.results import (
    Candidate,
    Finished,
    GeneratedToken,
    Limits,
    ModelInfo,
    Piece,
    Prediction,
    ScoredToken,
    ScorePiece,
    ScoreTotals,
    SessionInfo,
    Token,
    Word,
)
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

Answer = TypeVar("Answer", covariant=True)
Prompt = str | Sequence[int]  # text, or token ids
Metadata = Sequence[tuple[str, str | bytes]]

_MODELS = language_model_pb2_grpc.LanguageModelStub
_SESSIONS = sessions_pb2_grpc.SessionsStub
_SAMPLING = frozenset(field.name for field in lm.Sampling.DESCRIPTOR.fields)
_CONTENTS = {name: lm.GenerateRequest.Content.Value(f"CONTENT_{name.upper()}") for name in ("text", "ids", "both")}
_PAGE_SIZE = 500


class CallOptions(TypedDict, total=False):
    """What any call takes. `timeout_seconds` bounds the whole call, a stream's as well; None waits for ever."""

    timeout_seconds: float | None
    metadata: Metadata


class GenerateOptions(CallOptions, total=False):
    """What `generate` takes; the wire contract says what each means. None, or left out: the server's default."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_ids: Sequence[int] | None
    num_log_probabilities: int | None
    content: Literal["text", "ids", "both"] | None


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One call, not yet made. `request` is None where the caller sends a stream."""

    stub: Callable[[Any], Any]
    method: str
    request: Any
    parse: Callable[[Any], Answer]
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where calls go and what each carries."""

    address: str
    timeout_seconds: float | None = None
    metadata: Metadata = ()

    def arguments(self, call: Call[Any], options: CallOptions) -> dict[str, Any]:
        """What to give to the stub's method beside the request. Raises TypeError for an unknown option."""
        if unknown := options.keys() - CallOptions.__annotations__.keys():
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
        metadata = (*self.metadata, *options.get("metadata", ()))
        # A hint for load balancers; an id that no header can carry is for the server to refuse.
        if call.session_id and call.session_id.isascii() and call.session_id.isprintable():
            metadata = (*metadata, ("x-session-id", call.session_id))
        return {"timeout": options.get("timeout_seconds", self.timeout_seconds), "metadata": metadata}


def split_options(options: GenerateOptions) -> tuple[dict[str, Any], CallOptions]:
    """What shapes the request, without the Nones, and what shapes the call. Raises TypeError for an unknown option."""
    if unknown := options.keys() - GenerateOptions.__annotations__.keys():
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
    of_call = CallOptions()
    if "timeout_seconds" in options:
        of_call["timeout_seconds"] = options["timeout_seconds"]
    if "metadata" in options:
        of_call["metadata"] = options["metadata"]
    return {key: value for key, value in options.items() if key not in of_call and value is not None}, of_call


def generate(prompt: Prompt, session_id: str, model: str, wishes: dict[str, Any]) -> Call[Piece]:
    """`wishes` as `split_options` gives them."""
    sampling = {key: value for key, value in wishes.items() if key in _SAMPLING}
    rest = {key: value for key, value in wishes.items() if key not in _SAMPLING}
    if isinstance(stop := rest.get("stop"), str):
        rest["stop"] = [stop]
    if "content" in rest:
        rest["content"] = _content(rest["content"])
    request = lm.GenerateRequest(
        session_id=session_id, model=model, input=_input(prompt), sampling=lm.Sampling(**sampling), **rest
    )
    return Call(_MODELS, "Generate", request, _piece, session_id)


def predict(session_id: str) -> Call[Prediction]:
    """The stream; what is sent on it is made by `predict_request`."""
    return Call(_MODELS, "Predict", None, _prediction, session_id)


def predict_request(
    prompt: Prompt,
    session_id: str,
    model: str,
    *,
    k: int | None = None,
    word_prefix: str | None = None,
    num_words: int | None = None,
) -> Any:
    return lm.PredictRequest(
        session_id=session_id, model=model, input=_input(prompt), k=k, word_prefix=word_prefix, num_words=num_words
    )


def score(prompt: Prompt, session_id: str, model: str, top_g: int | None) -> Call[ScorePiece]:
    request = lm.ScoreRequest(session_id=session_id, model=model, input=_input(prompt), g=top_g)
    return Call(_MODELS, "Score", request, _score_piece, session_id)


def tokenize(text: str, model: str) -> Call[tuple[Token, ...]]:
    return Call(_MODELS, "Tokenize", lm.TokenizeRequest(model=model, text=text), _tokens)


def detokenize(ids: Iterable[int], model: str) -> Call[str]:
    return Call(_MODELS, "Detokenize", lm.DetokenizeRequest(model=model, ids=ids), lambda answer: str(answer.text))


def models() -> Call[tuple[ModelInfo, ...]]:
    return Call(_MODELS, "ListModels", lm.ListModelsRequest(), lambda answer: tuple(map(_model, answer.models)))


def model(name: str) -> Call[ModelInfo]:
    return Call(_MODELS, "GetModel", lm.GetModelRequest(model=name), _model)


def create_session(session_id: str, model: str) -> Call[SessionInfo]:
    request = sessions_pb2.CreateSessionRequest(session_id=session_id, model=model)
    return Call(_SESSIONS, "CreateSession", request, _session, session_id)


def get_session(session_id: str) -> Call[SessionInfo]:
    request = sessions_pb2.GetSessionRequest(session_id=session_id)
    return Call(_SESSIONS, "GetSession", request, _session, session_id)


def list_sessions(page_token: str) -> Call[tuple[list[SessionInfo], str]]:
    """A page and the token of the next one, empty on the last."""
    request = sessions_pb2.ListSessionsRequest(page_size=_PAGE_SIZE, page_token=page_token)
    return Call(_SESSIONS, "ListSessions", request, _session_page)


def delete_session(session_id: str) -> Call[None]:
    request = sessions_pb2.DeleteSessionRequest(session_id=session_id)
    return Call(_SESSIONS, "DeleteSession", request, lambda answer: None, session_id)


def health(service: str) -> Call[bool]:
    serving = health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest(service=service)
    return Call(health_pb2_grpc.HealthStub, "Check", request, lambda answer: bool(answer.status == serving))


def _input(prompt: Prompt) -> types_pb2.Input:
    if not prompt:
        return types_pb2.Input()
    if isinstance(prompt, str):
        return types_pb2.Input(text=prompt)
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=prompt))


def _content(name: str) -> Any:
    if name not in _CONTENTS:
        raise ValueError(f"content: must be one of {', '.join(_CONTENTS)}, not {name!r}")
    return _CONTENTS[name]


def _candidates(messages: Iterable[Any]) -> tuple[Candidate, ...]:
    return tuple(Candidate(one.id, one.log_probability, one.text) for one in messages)


def _piece(answer: lm.GenerateResponse) -> Piece:
    tokens = tuple(
        GeneratedToken(
            token.id,
            token.log_probability if token.HasField("log_probability") else None,
            _candidates(token.candidates),
        )
        for token in answer.tokens
    )
    return Piece(answer.text, tokens, _finished(answer.finished) if answer.HasField("finished") else None)


def _finished(message: lm.Finished) -> Finished:
    known = lm.Finished.Reason.values()
    reason = lm.Finished.Reason.Name(message.reason) if message.reason in known else "REASON_UNSPECIFIED"
    return Finished(
        reason.removeprefix("REASON_").lower(),
        message.stop,
        message.position,
        message.num_input_tokens,
        message.num_generated_tokens,
        message.seed,
    )


def _prediction(answer: lm.PredictResponse) -> Prediction:
    words = tuple(Word(word.text, word.log_probability) for word in answer.words)
    return Prediction(_candidates(answer.candidates), words, answer.position)


def _score_piece(answer: lm.ScoreResponse) -> ScorePiece:
    tokens = tuple(
        ScoredToken(token.id, token.log_probability, token.rank, token.is_hit, token.text) for token in answer.tokens
    )
    if not answer.HasField("totals"):
        return ScorePiece(tokens, None)
    sums = answer.totals
    totals = ScoreTotals(sums.num_tokens, sums.log_probability, sums.perplexity, sums.num_hits, sums.position)
    return ScorePiece(tokens, totals)


def _tokens(answer: lm.TokenizeResponse) -> tuple[Token, ...]:
    return tuple(Token(token.id, token.text) for token in answer.tokens)


def _model(message: lm.Model) -> ModelInfo:
    limits = Limits(**{field.name: getattr(message.limits, field.name) for field in fields(Limits)})
    names = [field.name for field in fields(ModelInfo) if field.name not in ("limits", "training")]
    training = json.loads(message.training_json or "{}")
    return ModelInfo(**{name: getattr(message, name) for name in names}, limits=limits, training=training)


def _session(message: sessions_pb2.Session) -> SessionInfo:
    return SessionInfo(
        message.session_id,
        message.model,
        message.model_digest,
        message.position,
        message.create_time.ToDatetime(tzinfo=UTC),
        message.update_time.ToDatetime(tzinfo=UTC),
        message.expire_time.ToDatetime(tzinfo=UTC),
    )


def _session_page(answer: sessions_pb2.ListSessionsResponse) -> tuple[list[SessionInfo], str]:
    return [_session(one) for one in answer.sessions], answer.next_page_token
