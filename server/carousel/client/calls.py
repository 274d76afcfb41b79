"""Every call of the wire contract as a value: what to send, where, and how to read the answer.

The blocking and the asyncio client both run these, so requests are made in this module alone, and read in `answers`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carousel.client import answers
from carousel.client.options import CallOptions, Metadata, Prompt
from carousel.client.results import (
    History,
    ModelInfo,
    Piece,
    Prediction,
    ScorePiece,
    SessionEvent,
    SessionInfo,
    Token,
)
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

Answer = TypeVar("Answer", covariant=True)

_MODELS = language_model_pb2_grpc.LanguageModelStub
_SESSIONS = sessions_pb2_grpc.SessionsStub
_SAMPLING = frozenset(field.name for field in lm.Sampling.DESCRIPTOR.fields)
_CONTENTS = {name: lm.GenerateRequest.Content.Value(f"CONTENT_{name.upper()}") for name in ("text", "ids", "both")}
_PAGE_SIZE = 500
CHANNEL_OPTIONS = (  # look for a server that went away soon, and often: the library's own pauses grow to two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One call, not yet made. `request` is None where the caller sends a stream.

    `done_reason` is the refusal which tells, on a repeat, that an earlier try was carried out after all.
    """

    stub: Callable[[Any], Any]
    method: str
    request: Any
    parse: Callable[[Any], Answer]
    session_id: str = ""
    done_reason: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where calls go and what each carries."""

    address: str
    timeout_seconds: float | None = None
    metadata: Metadata = ()

    def timeout(self, options: CallOptions) -> float | None:
        return options.get("timeout_seconds", self.timeout_seconds)

    def arguments(self, call: Call[Any], options: CallOptions) -> dict[str, Any]:
        """What to give to the stub's method beside the request. Raises TypeError for an unknown option."""
        if unknown := options.keys() - CallOptions.__annotations__.keys():
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
        metadata = (*self.metadata, *options.get("metadata", ()))
        # A hint for load balancers; an id that no header can carry is for the server to refuse.
        if call.session_id and call.session_id.isascii() and call.session_id.isprintable():
            metadata = (*metadata, ("x-session-id", call.session_id))
        return {"timeout": self.timeout(options), "metadata": metadata}


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
    return Call(_MODELS, "Generate", request, answers.piece, session_id)


def predict(session_id: str) -> Call[Prediction]:
    """The stream; what is sent on it is made by `predict_request`."""
    return Call(_MODELS, "Predict", None, answers.prediction, session_id)


def predict_request(prompt: Prompt, session_id: str, model: str, wishes: dict[str, Any]) -> Any:
    return lm.PredictRequest(session_id=session_id, model=model, input=_input(prompt), **wishes)


def score(prompt: Prompt, session_id: str, model: str, top_g: int | None, wishes: dict[str, Any]) -> Call[ScorePiece]:
    request = lm.ScoreRequest(session_id=session_id, model=model, input=_input(prompt), g=top_g, **wishes)
    return Call(_MODELS, "Score", request, answers.score_piece, session_id)


def tokenize(text: str, model: str) -> Call[tuple[Token, ...]]:
    return Call(_MODELS, "Tokenize", lm.TokenizeRequest(model=model, text=text), answers.tokens)


def detokenize(ids: Iterable[int], model: str) -> Call[str]:
    return Call(_MODELS, "Detokenize", lm.DetokenizeRequest(model=model, ids=ids), lambda answer: str(answer.text))


def models() -> Call[tuple[ModelInfo, ...]]:
    return Call(_MODELS, "ListModels", lm.ListModelsRequest(), lambda answer: tuple(map(answers.model, answer.models)))


def model(name: str) -> Call[ModelInfo]:
    return Call(_MODELS, "GetModel", lm.GetModelRequest(model=name), answers.model)


def create_session(session_id: str, model: str) -> Call[SessionInfo]:
    request = sessions_pb2.CreateSessionRequest(session_id=session_id, model=model)
    return Call(_SESSIONS, "CreateSession", request, answers.session, session_id)


def get_session(session_id: str) -> Call[SessionInfo]:
    request = sessions_pb2.GetSessionRequest(session_id=session_id)
    return Call(_SESSIONS, "GetSession", request, answers.session, session_id)


def list_sessions(page_token: str) -> Call[tuple[list[SessionInfo], str]]:
    """A page and the token of the next one, empty on the last."""
    request = sessions_pb2.ListSessionsRequest(page_size=_PAGE_SIZE, page_token=page_token)
    return Call(_SESSIONS, "ListSessions", request, answers.session_page)


def delete_session(session_id: str) -> Call[None]:
    request = sessions_pb2.DeleteSessionRequest(session_id=session_id)
    return Call(_SESSIONS, "DeleteSession", request, lambda answer: None, session_id, "SESSION_DELETED")


def fork_session(
    session_id: str, position: int | None, checkpoint: str, count: int | None, new_ids: Sequence[str]
) -> Call[list[SessionInfo]]:
    request = sessions_pb2.ForkSessionRequest(
        session_id=session_id, point=_point(position, checkpoint), count=count, new_session_ids=new_ids
    )
    parse = lambda answer: [answers.session(one) for one in answer.sessions]  # noqa: E731
    return Call(_SESSIONS, "ForkSession", request, parse, session_id)


def rewind_session(
    session_id: str, position: int | None, checkpoint: str, expected_position: int | None
) -> Call[SessionInfo]:
    request = sessions_pb2.RewindSessionRequest(
        session_id=session_id, point=_point(position, checkpoint), expected_position=expected_position
    )
    return Call(_SESSIONS, "RewindSession", request, answers.session, session_id)


def save_checkpoint(session_id: str, name: str) -> Call[SessionInfo]:
    request = sessions_pb2.SaveCheckpointRequest(session_id=session_id, checkpoint=name)
    return Call(_SESSIONS, "SaveCheckpoint", request, answers.session, session_id)


def get_history(session_id: str) -> Call[History]:
    request = sessions_pb2.GetHistoryRequest(session_id=session_id)
    return Call(_SESSIONS, "GetHistory", request, answers.history, session_id)


def export_session(session_id: str, ttl: timedelta | None, position: int | None, checkpoint: str) -> Call[bytes]:
    request = sessions_pb2.ExportSessionRequest(session_id=session_id, point=_point(position, checkpoint))
    if ttl is not None:
        duration = duration_pb2.Duration()
        duration.FromTimedelta(ttl)
        request.ttl.CopyFrom(duration)
    return Call(_SESSIONS, "ExportSession", request, lambda answer: bytes(answer.state), session_id)


def import_session(state: bytes, session_id: str) -> Call[SessionInfo]:
    request = sessions_pb2.ImportSessionRequest(state=state, session_id=session_id)
    return Call(_SESSIONS, "ImportSession", request, answers.session, session_id)


def watch_sessions() -> Call[SessionEvent]:
    return Call(_SESSIONS, "WatchSessions", sessions_pb2.WatchSessionsRequest(), answers.event)


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


def _point(position: int | None, checkpoint: str) -> sessions_pb2.Point:
    """Neither: now."""
    if position is not None and checkpoint:
        raise ValueError("either a position or a checkpoint, not both")
    return sessions_pb2.Point(checkpoint=checkpoint) if checkpoint else sessions_pb2.Point(position=position)


def _content(name: str) -> Any:
    if name not in _CONTENTS:
        raise ValueError(f"content: must be one of {', '.join(_CONTENTS)}, not {name!r}")
    return _CONTENTS[name]
