"""What callers ask of the sessions and what they get: text in, text out, on top of the engine's ids."""

import math
from collections.abc import Sequence

from carousel.records import record
from carousel.turns import Candidate, FinishReason, Generated, SamplingOptions


@record(frozen=True, slots=True)
class Caller:
    """Who asks, and where the turn happens: on a session, on a sealed state that the caller brings, or (neither) on a
    fresh sequence that nobody keeps. `request_id` makes repeats one request; `expected_position` guards the order."""

    owner: str
    session_id: str = ""
    state: bytes = b""
    request_id: str = ""
    expected_position: int | None = None


@record(frozen=True, slots=True)
class Standing:
    """Where a sequence stands after a turn. `state` is sealed, for a caller that brought its own."""

    position: int
    durable_position: int  # up to here a crash of the server takes nothing
    state: bytes = b""
    is_replay: bool = False  # the request had been applied before, and was answered from the record


Input = str | Sequence[int]


@record(frozen=True, slots=True)
class GenerationRequest:
    input: Input = ()
    sampling: SamplingOptions = SamplingOptions()
    max_tokens: int = 128
    num_branches: int = 1  # the wire's n
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    num_log_probabilities: int = 0


@record(frozen=True, slots=True)
class GenerationEnd:
    """How a generation ended; the session is saved by then."""

    reason: FinishReason
    stop: str
    standing: Standing
    num_input_tokens: int
    num_generated_tokens: int
    seed: int


@record(frozen=True, slots=True)
class GenerationPiece:
    """What came since the last piece; `end` is set in the last one."""

    tokens: tuple[Generated, ...]
    text: str
    end: GenerationEnd | None = None
    branch: int = 0


@record(frozen=True, slots=True)
class PredictionRequest:
    input: Input = ()
    num_candidates: int = 10
    word_prefix: str | None = None  # None: no words are wanted
    num_words: int = 5


@record(frozen=True, slots=True)
class Word:
    text: str
    log_probability: float


@record(frozen=True, slots=True)
class Prediction:
    candidates: tuple[Candidate, ...]
    words: tuple[Word, ...]
    standing: Standing


@record(frozen=True, slots=True)
class ScoringRequest:
    input: Input = ()
    num_top: int = 10  # the wire's g


@record(frozen=True, slots=True)
class ScoredToken:
    id: int
    log_probability: float
    rank: int
    is_hit: bool
    text: str


@record(frozen=True, slots=True)
class ScoreTotals:
    num_tokens: int
    log_probability: float  # nats, summed
    num_hits: int
    standing: Standing

    @property
    def perplexity(self) -> float:
        """1 for no tokens; infinite where a float cannot hold it."""
        mean = -self.log_probability / max(self.num_tokens, 1)
        return math.exp(mean) if mean < 700 else math.inf


@record(frozen=True, slots=True)
class ScoringPiece:
    tokens: tuple[ScoredToken, ...]
    totals: ScoreTotals | None = None
