"""The values that the client returns: small, frozen, free of protobuf. Knows no transport."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple


class Candidate(NamedTuple):
    """A possible next token; the probability is the model's own, before sampling options. A tuple, because answers have
    many."""

    id: int
    log_probability: float  # nats
    text: str

    @property
    def probability(self) -> float:
        return math.exp(self.log_probability)


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    id: int
    log_probability: float | None  # None unless the caller asked for them
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """How a generation ended; the session is saved by then."""

    reason: str  # length, stop, stop_id
    stop: str  # the stop string that ended it, if any
    position: int
    num_input_tokens: int
    num_generated_tokens: int
    seed: int
    durable_position: int = 0  # a crash of the server loses nothing up to here
    state: bytes = b""  # the next sealed state, when the request brought one
    is_replay: bool = False  # the request was applied before; this is the recorded answer


@dataclass(frozen=True, slots=True)
class Piece:
    """What was generated since the last piece. `finished` is set only in a branch's last piece; branch 0's ends the
    answer."""

    text: str
    tokens: tuple[GeneratedToken, ...]
    finished: Finished | None
    branch: int = 0  # one of the n continuations


@dataclass(frozen=True, slots=True)
class Word:
    """A whole word, including the requested prefix."""

    text: str
    log_probability: float  # nats

    @property
    def probability(self) -> float:
        return math.exp(self.log_probability)


class Prediction(NamedTuple):
    """The likeliest next tokens, and words when the request has a prefix, likeliest first. A tuple, because each
    keystroke makes one."""

    candidates: tuple[Candidate, ...]
    words: tuple[Word, ...]
    position: int
    durable_position: int = 0  # a crash of the server loses nothing up to here
    state: bytes = b""  # the next sealed state, when the request brought one
    is_replay: bool = False  # the request was applied before; this is the recorded answer


@dataclass(frozen=True, slots=True)
class ScoredToken:
    id: int
    log_probability: float  # nats, given everything before
    rank: int  # 1 is the likeliest
    is_hit: bool  # among the g likeliest
    text: str  # what it adds to the text


@dataclass(frozen=True, slots=True)
class ScoreTotals:
    num_tokens: int
    log_probability: float  # nats, summed
    perplexity: float
    num_hits: int
    position: int
    durable_position: int = 0  # a crash of the server loses nothing up to here
    state: bytes = b""  # the next sealed state, when the request brought one
    is_replay: bool = False  # the request was applied before; this is the recorded answer


@dataclass(frozen=True, slots=True)
class ScorePiece:
    """What was scored since the last piece. `totals` is set only in the last piece."""

    tokens: tuple[ScoredToken, ...]
    totals: ScoreTotals | None


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    text: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server keeps it. Times are in UTC."""

    session_id: str
    model: str
    model_digest: str
    position: int
    create_time: datetime
    update_time: datetime
    expire_time: datetime
    durable_position: int = 0  # up to here a crash of the server takes nothing


@dataclass(frozen=True, slots=True)
class Origin:
    """The session that another was forked from, and where. It may have ended, and its id may be in use again."""

    session_id: str
    position: int


@dataclass(frozen=True, slots=True)
class History:
    """The points a session can go back to: turn boundaries, oldest first, the last is the current one; and named
    checkpoints. `origin` is None for a session that was no fork."""

    session: SessionInfo
    positions: tuple[int, ...]
    checkpoints: Mapping[str, int]
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class InspectedToken:
    id: int
    text: str  # what it adds to the text
    log_probability: float  # nats, given everything before
    rank: int  # 1 is the likeliest
    candidates: tuple[Candidate, ...]  # the likeliest in its place, if asked


@dataclass(frozen=True, slots=True)
class Inspected:
    """The state of a sequence after `token`; None where the reading starts. `values` has a view per tensor, by name, of
    the tensor's shape: `tolist` and `numpy.asarray` read it."""

    position: int
    values: Mapping[str, "memoryview[Any]"]
    token: InspectedToken | None


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event of a session, at `time` in UTC."""

    kind: str  # created, deleted, expired, evicted
    session_id: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request."""

    max_input_tokens: int
    max_generated_tokens: int
    max_message_bytes: int
    penalty_window: int
    max_input_bytes: int  # of text
    max_answer_items: int  # n x max_tokens x (1 + num_log_probabilities)
    max_stop_ids: int
    max_sequences_per_stream: int  # of PredictMany
    max_waiting_per_stream: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    digest: str
    cell: str
    num_layers: int
    hidden_size: int
    vocabulary_size: int
    num_parameters: int
    precision: str
    tokenizer: str  # byte, character, word, bpe
    state_bytes: int
    provider: str
    limits: Limits
    training: Mapping[str, Any]  # the model's origin, as its exporter wrote it
    block: str = ""  # plain or residual; empty from an older server
    has_chat_template: bool = False
