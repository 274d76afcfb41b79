"""Answers of the wire contract as the client's own values. Functions only; they know no request and no transport."""

import functools
import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC
from typing import Any

from carousel.client.core.results import (
    Candidate,
    Finished,
    GeneratedToken,
    History,
    Inspected,
    InspectedToken,
    Limits,
    ModelInfo,
    Origin,
    Piece,
    Prediction,
    ScoredToken,
    ScorePiece,
    ScoreTotals,
    SessionEvent,
    SessionInfo,
    Token,
    Word,
)
from carousel.client.core.states import view
from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import sessions_pb2

# No Python code runs per candidate: an answer has many candidates, and a keyboard asks for many answers.
_make_candidate = functools.partial(tuple.__new__, Candidate)
_read_candidate = operator.attrgetter(*Candidate._fields)
_make_prediction = functools.partial(tuple.__new__, Prediction)
_read_prediction = operator.attrgetter(*Prediction._fields[2:])


def piece(answer: lm.GenerateResponse) -> Piece:
    tokens = tuple(
        GeneratedToken(
            token.id,
            token.log_probability if token.HasField("log_probability") else None,
            _candidates(token.candidates),
        )
        for token in answer.tokens
    )
    finished = _finished(answer.finished) if answer.HasField("finished") else None
    return Piece(answer.text, tokens, finished, answer.branch)


def prediction(answer: lm.PredictResponse) -> Prediction:
    words = tuple([Word(word.text, word.log_probability) for word in answer.words])
    return _make_prediction((_candidates(answer.candidates), words, *_read_prediction(answer)))


def score_piece(answer: lm.ScoreResponse) -> ScorePiece:
    tokens = tuple(
        ScoredToken(token.id, token.log_probability, token.rank, token.is_hit, token.text) for token in answer.tokens
    )
    return ScorePiece(tokens, _totals(answer.totals) if answer.HasField("totals") else None)


def tokens(answer: lm.TokenizeResponse) -> tuple[Token, ...]:
    return tuple(Token(token.id, token.text) for token in answer.tokens)


def model(message: lm.Model) -> ModelInfo:
    limits = Limits(**{field.name: getattr(message.limits, field.name) for field in fields(Limits)})
    names = [field.name for field in fields(ModelInfo) if field.name not in ("limits", "training")]
    training = json.loads(message.training_json or "{}")
    return ModelInfo(**{name: getattr(message, name) for name in names}, limits=limits, training=training)


def session(message: sessions_pb2.Session) -> SessionInfo:
    return SessionInfo(
        message.session_id,
        message.model,
        message.model_digest,
        message.position,
        message.create_time.ToDatetime(tzinfo=UTC),
        message.update_time.ToDatetime(tzinfo=UTC),
        message.expire_time.ToDatetime(tzinfo=UTC),
        message.durable_position,
    )


def session_page(answer: sessions_pb2.ListSessionsResponse) -> tuple[list[SessionInfo], str]:
    return [session(one) for one in answer.sessions], answer.next_page_token


def history(message: sessions_pb2.History) -> History:
    origin = Origin(message.origin.session_id, message.origin.position) if message.HasField("origin") else None
    return History(session(message.session), tuple(message.positions), dict(message.checkpoints), origin)


class Inspections:
    """Reads the answers of one call, in order: the first says what the values of all are."""

    def __init__(self) -> None:
        self._tensors: Sequence[sessions_pb2.StateTensor] = ()

    def __call__(self, message: sessions_pb2.InspectSessionResponse) -> Inspected:
        """Raises ValueError for values of a type that this client does not know."""
        if message.tensors:
            self._tensors = message.tensors
        pairs = zip(self._tensors, message.values, strict=True)
        values = {tensor.name: view(content, tensor.shape, tensor.dtype) for tensor, content in pairs}
        token = _inspected_token(message.token) if message.HasField("token") else None
        return Inspected(message.position, values, token)


def event(message: sessions_pb2.SessionEvent) -> SessionEvent:
    kind = _name(sessions_pb2.SessionEvent.Kind, message.kind, "KIND_")
    return SessionEvent(kind, message.session_id, message.time.ToDatetime(tzinfo=UTC))


def _inspected_token(message: sessions_pb2.InspectedToken) -> InspectedToken:
    candidates = _candidates(message.candidates)
    return InspectedToken(message.id, message.text, message.log_probability, message.rank, candidates)


def _candidates(messages: Iterable[Any]) -> tuple[Candidate, ...]:
    return tuple(map(_make_candidate, map(_read_candidate, messages)))


def _finished(message: lm.Finished) -> Finished:
    return Finished(
        _name(lm.Finished.Reason, message.reason, "REASON_"),
        message.stop,
        message.position,
        message.num_input_tokens,
        message.num_generated_tokens,
        message.seed,
        durable_position=message.durable_position,
        state=message.state,
        is_replay=message.is_replay,
    )


def _totals(message: lm.ScoreTotals) -> ScoreTotals:
    return ScoreTotals(
        message.num_tokens,
        message.log_probability,
        message.perplexity,
        message.num_hits,
        message.position,
        durable_position=message.durable_position,
        state=message.state,
        is_replay=message.is_replay,
    )


def _name(names: Any, value: int, prefix: str) -> str:
    """Returns the enum name in lower case; `unspecified` for a value that this client does not know."""
    return str(names.Name(value if value in names.values() else 0)).removeprefix(prefix).lower()
