"""Records of answers: a retry of a request gets the same answer, word for word, and is not applied again.

Pydantic writes them as JSON. Floats come back bit for bit, infinite ones too. `fingerprint` shows whether a request id
is used again for another request.
"""

import hashlib
from collections.abc import Sequence

from pydantic import TypeAdapter
from pydantic_core import to_json

from carousel.records import record
from carousel.sessions.ledger import Retention
from carousel.sessions.requests import (
    GenerationEnd,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoredToken,
    ScoreTotals,
    ScoringRequest,
    Standing,
)
from carousel.turns import Generated


@record(frozen=True, slots=True)
class GenerationAnswer:
    tokens: tuple[Generated, ...]
    text: str
    end: GenerationEnd


@record(frozen=True, slots=True)
class ScoringAnswer:
    tokens: tuple[ScoredToken, ...]
    totals: ScoreTotals


Request = GenerationRequest | PredictionRequest | ScoringRequest
Answer = tuple[GenerationAnswer, ...] | ScoringAnswer | Prediction  # a generation has one answer per branch


@record(frozen=True, slots=True)
class Record:
    """An answer and the fingerprint of its request. The memo is a transport's."""

    fingerprint: str
    answer: Answer
    memo: str = ""


class ScoringRecord:
    """A scoring turn in progress: its totals, and its tokens while they fit into an answer of `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._rated: list[ScoredToken] = []
        self._num_tokens = 0
        self._num_hits = 0
        self._log_probability = 0.0

    def add(self, tokens: Sequence[ScoredToken]) -> None:
        self._num_tokens += len(tokens)
        self._num_hits += sum([token.is_hit for token in tokens])
        self._log_probability = sum([token.log_probability for token in tokens], self._log_probability)
        self._num_bytes += sum([_SCORED_BYTES * (1 + len(token.candidates)) + len(token.text) for token in tokens])
        if self._num_bytes <= self._max_bytes:
            self._rated.extend(tokens)
        else:
            self._rated.clear()

    def total(self, position: int) -> ScoreTotals:
        return ScoreTotals(self._num_tokens, self._log_probability, self._num_hits, Standing(position, 0))

    def answer(self, totals: ScoreTotals) -> ScoringAnswer | None:
        """Returns the answer to record, or None when it is too large to keep."""
        return ScoringAnswer(tuple(self._rated), totals) if self._num_bytes <= self._max_bytes else None


_SCORED_BYTES = 60  # the least that a scored token takes in a record
_RECORD_BYTES, _ITEM_BYTES = 1_024, 200
_NUM_CANDIDATES = PredictionRequest().num_candidates
_RECORDS: TypeAdapter[Record] = TypeAdapter(Record)
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)


def estimate_bytes(request: Request) -> int:
    """Estimates the largest size of the answer's record. A larger one is not kept."""
    match request:
        case PredictionRequest():
            num_items = request.num_candidates + (request.num_words if request.word_prefix is not None else 0)
        case GenerationRequest():
            num_items = request.num_branches * (2 + request.max_tokens * (1 + request.num_log_probabilities))
        case ScoringRequest():
            # A text has no more tokens than bytes; it may have more than characters.
            num_items = len(request.input.encode() if isinstance(request.input, str) else request.input)
    return _RECORD_BYTES + _ITEM_BYTES * num_items


def answer_room(retention: Retention, request: Request) -> int:
    """Returns the maximum size of the answer's record, in bytes."""
    return min(retention.max_answer_bytes, estimate_bytes(request))


def write_record(record: Record) -> bytes:
    content = {"fingerprint": record.fingerprint, "answer": record.answer}
    return to_json(content | ({"memo": record.memo} if record.memo else {}), inf_nan_mode="constants")


def write_plain_record(
    token_id: int, num_candidates: int, ids: Sequence[int], log_probabilities: Sequence[float], position: int
) -> bytes:
    """Writes what `write_record` writes for a prediction after one token, in a third of the time."""
    candidates = [{"id": one, "log_probability": value} for one, value in zip(ids, log_probabilities, strict=True)]
    standing = {"position": position, "durable_position": 0, "state": "", "is_replay": False}
    answer = {"candidates": candidates, "words": [], "standing": standing}
    content = {"fingerprint": _plain_fingerprint(token_id, num_candidates), "answer": answer}
    return to_json(content, inf_nan_mode="constants")


def max_plain_bytes(num_candidates: int) -> int:
    """Returns an upper bound on the record of a prediction after one token."""
    return 256 + 96 * num_candidates


def read_record(content: bytes) -> Record:
    return _RECORDS.validate_json(content)


def answered_position(answer: Answer) -> int:
    """Returns the sequence's position after the turn."""
    match answer:
        case Prediction():
            return answer.standing.position
        case ScoringAnswer():
            return answer.totals.standing.position
        case _:
            return answer[0].end.standing.position


def fingerprint(request: Request) -> str:
    """Returns the same text for equal requests. It leaves defaults out: retries still match after a field is added."""
    return _digest(type(request).__name__.encode() + _REQUESTS.dump_json(request, exclude_defaults=True))


def _plain_fingerprint(token_id: int, num_candidates: int) -> str:
    """Returns the fingerprint of a PredictionRequest with nothing else in it."""
    rest = b"" if num_candidates == _NUM_CANDIDATES else b',"num_candidates":%d' % num_candidates
    return _digest(b'PredictionRequest{"input":[%d]%b}' % (token_id, rest))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
