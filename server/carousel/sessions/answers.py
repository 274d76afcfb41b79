"""What a turn answered, kept so that the same request is answered again word for word without being applied again.

JSON by pydantic: floats come back bit for bit, infinite ones too. `fingerprint` tells whether an id is used again for
something else.
"""

import hashlib

from pydantic import TypeAdapter
from pydantic_core import to_json

from carousel.records import record
from carousel.sessions.requests import (
    GenerationEnd,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoredToken,
    ScoreTotals,
    ScoringRequest,
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
Answer = tuple[GenerationAnswer, ...] | ScoringAnswer | Prediction  # a generation has an answer a branch


@record(frozen=True, slots=True)
class Record:
    """An answer and the request that it answers."""

    fingerprint: str
    answer: Answer


_RECORDS: TypeAdapter[Record] = TypeAdapter(Record)
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)


def write_record(record: Record) -> bytes:
    return to_json(record, inf_nan_mode="constants")


def read_record(content: bytes) -> Record:
    return _RECORDS.validate_json(content)


def answered_position(answer: Answer) -> int:
    """Where the turn left its sequence."""
    match answer:
        case Prediction():
            return answer.standing.position
        case ScoringAnswer():
            return answer.totals.standing.position
        case _:
            return answer[0].end.standing.position


def fingerprint(request: Request) -> str:
    """The same for equal requests. Defaults are left out, so that a field added later tells no old repeats apart."""
    content = _REQUESTS.dump_json(request, exclude_defaults=True)
    return hashlib.blake2b(type(request).__name__.encode() + content, digest_size=12).hexdigest()
