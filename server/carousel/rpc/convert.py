"""Converts wire messages to the domain's requests and back. Functions only; the wire contract's defaults live here.

An optional field that is not set becomes the domain's default. `sessions` checks the ranges.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from google.protobuf import timestamp_pb2

from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import TextDecoder, Tokenizer
from carousel.sessions import requests
from carousel.sessions.events import EventKind, SessionEvent
from carousel.sessions.inspection import Inspected, InspectedToken, InspectionRequest
from carousel.sessions.operations import History, Point
from carousel.sessions.resident import Plain
from carousel.settings import Settings
from carousel.state.store import Row
from carousel.traces import UNRECORDED, Timeline
from carousel.turns import Candidate, FinishReason, Generated, SamplingOptions
from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, types_pb2

_WithCandidates: TypeAlias = wire.GeneratedToken | wire.PredictResponse | sessions_pb2.InspectedToken
_DEFAULT_PREDICTION = requests.PredictionRequest()
_DEFAULT_TTL_SECONDS = 86_400.0
_MAX_TOKENS_PER_MESSAGE = 256
_MAX_CANDIDATES_PER_MESSAGE = 4096  # far below the clients' limit, and less than 2 ms of the event loop
_MAX_SCORED_PER_MESSAGE = 2048
_TOKENS_PER_SLICE = 2048  # less than 3 ms of the event loop
_KINDS = {
    EventKind.CREATED: sessions_pb2.SessionEvent.KIND_CREATED,
    EventKind.DELETED: sessions_pb2.SessionEvent.KIND_DELETED,
    EventKind.EXPIRED: sessions_pb2.SessionEvent.KIND_EXPIRED,
    EventKind.EVICTED: sessions_pb2.SessionEvent.KIND_EVICTED,
}
_REASONS = {
    FinishReason.LENGTH: wire.Finished.REASON_LENGTH,
    FinishReason.STOP: wire.Finished.REASON_STOP,
    FinishReason.STOP_ID: wire.Finished.REASON_STOP_ID,
}


def to_input(message: types_pb2.Input) -> requests.Input:
    return message.text if message.WhichOneof("content") == "text" else tuple(message.tokens.ids)


def to_caller(
    owner: str,
    message: wire.GenerateRequest | wire.PredictRequest | wire.ScoreRequest,
    session_id: str,
    timeline: Timeline = UNRECORDED,
) -> requests.Caller:
    expected = message.expected_position if message.HasField("expected_position") else None
    return requests.Caller(owner, session_id, message.state, message.request_id, expected, timeline)


def to_expected(message: sessions_pb2.RewindSessionRequest) -> int | None:
    return message.expected_position if message.HasField("expected_position") else None


def to_ttl(message: sessions_pb2.ExportSessionRequest) -> float:
    """Returns the seconds. Adds them by hand, so that the result is a number for any client input."""
    return message.ttl.seconds + message.ttl.nanos / 1e9 if message.HasField("ttl") else _DEFAULT_TTL_SECONDS


def to_point(message: sessions_pb2.Point) -> Point:
    position = message.position if message.WhichOneof("point") == "position" else None
    return Point(position, message.checkpoint)


def to_generation(message: wire.GenerateRequest) -> requests.GenerationRequest:
    default = requests.GenerationRequest()
    return requests.GenerationRequest(
        input=to_input(message.input),
        sampling=to_sampling(message.sampling),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else default.max_tokens,
        num_branches=message.n if message.HasField("n") else default.num_branches,
        stop=tuple(message.stop),
        stop_ids=tuple(message.stop_ids),
        num_log_probabilities=message.num_log_probabilities,
    )


def to_sampling(message: wire.Sampling) -> SamplingOptions:
    """Returns the options, which have the same names on the wire. An unset option has the domain's default."""
    given = {option.name: value for option, value in message.ListFields()}
    return SamplingOptions(**given | {"logit_bias": tuple(sorted(message.logit_bias.items()))})


def to_prediction(message: wire.PredictRequest) -> requests.PredictionRequest:
    default, has = _DEFAULT_PREDICTION, message.HasField
    return requests.PredictionRequest(
        input=to_input(message.input),
        num_candidates=message.k if has("k") else default.num_candidates,
        word_prefix=message.word_prefix if has("word_prefix") else None,
        num_words=message.num_words if has("num_words") else default.num_words,
    )


def to_plain(message: wire.PredictRequest) -> Plain | None:
    """Returns the plain turn, or None if the message asks for more than the candidates after one token."""
    has, request = message.HasField, message.input
    if request.WhichOneof("content") != "tokens" or message.state or has("word_prefix") or has("num_words"):
        return None
    ids = request.tokens.ids
    if len(ids) != 1:
        return None
    num_candidates = message.k if has("k") else _DEFAULT_PREDICTION.num_candidates
    expected = message.expected_position if has("expected_position") else None
    return Plain(ids[0], num_candidates, message.request_id, expected)


def to_scoring(message: wire.ScoreRequest) -> requests.ScoringRequest:
    num_top = message.g if message.HasField("g") else requests.ScoringRequest().num_top
    return requests.ScoringRequest(to_input(message.input), num_top)


def to_inspection(message: sessions_pb2.InspectSessionRequest) -> InspectionRequest:
    point, tensors = to_point(message.point), tuple(message.tensors)
    return InspectionRequest(to_input(message.input), point, tensors, message.num_candidates)


def split_piece(piece: requests.GenerationPiece) -> Iterator[requests.GenerationPiece]:
    """Splits a slow reader's piece into parts of bounded size. The last part has the text and the end."""
    num_candidates = len(piece.tokens[0].candidates) if piece.tokens else 0
    size = min(_MAX_TOKENS_PER_MESSAGE, _MAX_CANDIDATES_PER_MESSAGE // max(1, num_candidates))
    last = max(0, (len(piece.tokens) - 1) // size)
    for number in range(last):
        part = piece.tokens[number * size : (number + 1) * size]
        yield requests.GenerationPiece(part, "", branch=piece.branch)
    yield requests.GenerationPiece(piece.tokens[last * size :], piece.text, piece.end, piece.branch)


def split_scoring(piece: requests.ScoringPiece) -> Iterator[requests.ScoringPiece]:
    """Splits a piece of scored tokens: a retry's answer has all of them at once."""
    last = max(0, (len(piece.tokens) - 1) // _MAX_SCORED_PER_MESSAGE)
    for number in range(last):
        first = number * _MAX_SCORED_PER_MESSAGE
        yield requests.ScoringPiece(piece.tokens[first : first + _MAX_SCORED_PER_MESSAGE])
    yield requests.ScoringPiece(piece.tokens[last * _MAX_SCORED_PER_MESSAGE :], piece.totals)


def from_generation(
    piece: requests.GenerationPiece, content: wire.GenerateRequest.Content, tokenizer: Tokenizer
) -> wire.GenerateResponse:
    response = wire.GenerateResponse(branch=piece.branch)
    if content != wire.GenerateRequest.CONTENT_TEXT:
        response.tokens.extend([_from_generated(token, tokenizer) for token in piece.tokens])
    if content != wire.GenerateRequest.CONTENT_IDS:
        response.text = piece.text
    if piece.end is not None:
        response.finished.CopyFrom(_from_end(piece.end))
    return response


def from_prediction(prediction: requests.Prediction, tokenizer: Tokenizer) -> wire.PredictResponse:
    standing = prediction.standing
    response = wire.PredictResponse(
        position=standing.position,
        durable_position=standing.durable_position,
        state=standing.state,
        is_replay=standing.is_replay,
    )
    _add_candidates(response, prediction.candidates, tokenizer)
    if prediction.words:
        response.words.extend(wire.Word(text=one.text, log_probability=one.log_probability) for one in prediction.words)
    return response


def from_scoring(piece: requests.ScoringPiece) -> wire.ScoreResponse:
    tokens = (
        wire.ScoredToken(
            id=token.id,
            log_probability=token.log_probability,
            rank=token.rank,
            is_hit=token.is_hit,
            text=token.text,
        )
        for token in piece.tokens
    )
    response = wire.ScoreResponse(tokens=tokens)
    if piece.totals is not None:
        response.totals.CopyFrom(_from_totals(piece.totals))
    return response


def fill_tokens(response: wire.TokenizeResponse, ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[None]:
    """Adds a text's tokens to the response, slice by slice. Other work may run between slices."""
    decoder, spell, add = TextDecoder(), tokenizer.token_bytes, response.tokens.add
    for first in range(0, len(ids), _TOKENS_PER_SLICE):
        for index in ids[first : first + _TOKENS_PER_SLICE]:
            add(id=index, text=decoder.push(spell(index)))
        yield
    if response.tokens:
        response.tokens[-1].text += decoder.flush()


def from_row(row: Row, manifest: Manifest, durable_position: int) -> sessions_pb2.Session:
    return sessions_pb2.Session(
        session_id=row.id,
        model=manifest.name,
        model_digest=manifest.digest,
        position=row.position,
        create_time=_timestamp(row.created_at),
        update_time=_timestamp(row.updated_at),
        expire_time=_timestamp(row.expires_at),
        durable_position=durable_position,
    )


def from_history(history: History, session: sessions_pb2.Session) -> sessions_pb2.History:
    message = sessions_pb2.History(session=session, positions=history.positions, checkpoints=history.marks)
    if history.origin is not None:
        message.origin.session_id = history.origin.session_id
        message.origin.position = history.origin.position
    return message


def from_inspected(inspected: Inspected, tokenizer: Tokenizer) -> sessions_pb2.InspectSessionResponse:
    response = sessions_pb2.InspectSessionResponse(position=inspected.position)
    for tensor in inspected.tensors:
        response.tensors.add(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype)
    for array in inspected.values:
        response.values.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    if inspected.token is not None:
        _fill_inspected(response.token, inspected.token, tokenizer)
    return response


def from_event(event: SessionEvent) -> sessions_pb2.SessionEvent:
    return sessions_pb2.SessionEvent(kind=_KINDS[event.kind], session_id=event.session_id, time=_timestamp(event.at))


def from_manifest(manifest: Manifest, provider: str, settings: Settings) -> wire.Model:
    return wire.Model(
        name=manifest.name,
        digest=manifest.digest,
        cell=manifest.cell,
        block=manifest.block,
        has_chat_template=manifest.chat is not None,
        num_layers=manifest.num_layers,
        hidden_size=manifest.hidden_size,
        vocabulary_size=manifest.vocabulary_size,
        num_parameters=manifest.num_parameters,
        precision=manifest.precision,
        tokenizer=str(manifest.tokenizer_kind),
        state_bytes=manifest.state.num_bytes,
        provider=provider,
        limits=wire.Limits(
            max_input_tokens=settings.max_input_tokens,
            max_generated_tokens=settings.max_generated_tokens,
            max_message_bytes=settings.max_message_bytes,
            penalty_window=settings.penalty_window,
            max_input_bytes=settings.max_input_bytes,
            max_answer_items=settings.max_answer_items,
            max_stop_ids=settings.max_stop_ids,
            max_sequences_per_stream=settings.max_sequences_per_stream,
            max_waiting_per_stream=settings.max_waiting_per_stream,
        ),
        training_json=json.dumps(dict(manifest.training)),
    )


def _from_generated(token: Generated, tokenizer: Tokenizer) -> wire.GeneratedToken:
    if token.log_probability is None:
        return wire.GeneratedToken(id=token.id)
    message = wire.GeneratedToken(id=token.id, log_probability=token.log_probability)
    _add_candidates(message, token.candidates, tokenizer)
    return message


def _fill_inspected(message: sessions_pb2.InspectedToken, token: InspectedToken, tokenizer: Tokenizer) -> None:
    message.id = token.id
    message.text = token.text
    message.log_probability = token.log_probability
    message.rank = token.rank
    _add_candidates(message, token.candidates, tokenizer)


def _add_candidates(message: _WithCandidates, candidates: Iterable[Candidate], tokenizer: Tokenizer) -> None:
    """Adds the candidates in place: protobuf would copy a list of messages."""
    texts, add = tokenizer.texts, message.candidates.add
    for one in candidates:
        add(id=one.id, log_probability=one.log_probability, text=texts[one.id])


def _from_end(end: requests.GenerationEnd) -> wire.Finished:
    finished = wire.Finished(
        reason=_REASONS[end.reason],
        stop=end.stop,
        num_input_tokens=end.num_input_tokens,
        num_generated_tokens=end.num_generated_tokens,
        seed=end.seed,
    )
    _stand(finished, end.standing)
    return finished


def _stand(message: wire.Finished | wire.ScoreTotals, standing: requests.Standing) -> None:
    """Fills in where the sequence stands: every answer has the same fields for it."""
    message.position = standing.position
    message.durable_position = standing.durable_position
    message.state = standing.state
    message.is_replay = standing.is_replay


def _from_totals(totals: requests.ScoreTotals) -> wire.ScoreTotals:
    message = wire.ScoreTotals(
        num_tokens=totals.num_tokens,
        log_probability=totals.log_probability,
        perplexity=totals.perplexity,
        num_hits=totals.num_hits,
    )
    _stand(message, totals.standing)
    return message


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromNanoseconds(int(seconds * 1e9))
    return timestamp
