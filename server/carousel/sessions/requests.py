"""The requests of callers and their results: text in, text out, on top of the engine's ids."""

import math
from collections.abc import Callable, Sequence
from dataclasses import field

from carousel.records import record
from carousel.traces import UNRECORDED, Timeline
from carousel.turns import Candidate, FinishReason, Generated, SamplingOptions


@record(frozen=True, slots=True)
class Waypoint:
    """The end of a turn: a point in one session's past that a later turn can begin from."""

    session_id: str
    incarnation: int
    revision: int  # that the turn made


@record(frozen=True, slots=True)
class Lineage:
    """What a turn asks for whose end is to have a name. It goes on from `after`: in that session while nothing has
    moved it since, otherwise in a new one. With neither that nor a session of its caller, it begins a new one."""

    after: Waypoint | None = None
    memo: str = ""  # kept beside the answer, for the transport
    is_kept: bool = True  # False: the turn changes and creates nothing
    check_founding: Callable[[], None] = field(default=lambda: None, compare=False)  # raises if no session may be made


@record(frozen=True, slots=True)
class Receipt:
    """The name of a turn's end, and the memo that its answer has. Known before the answer."""

    waypoint: Waypoint | None  # None: nothing is kept
    memo: str


@record(frozen=True, slots=True)
class Caller:
    """Who calls, and where the turn runs: on a session, on a sealed state that the caller brings, where its lineage
    leads, or (none of these) on a fresh sequence that is not kept. `request_id` makes retries one request;
    `expected_position` guards the order."""

    owner: str
    session_id: str = ""
    state: bytes = b""
    request_id: str = ""
    expected_position: int | None = None
    timeline: Timeline = field(default=UNRECORDED, compare=False)  # of the call
    lineage: Lineage | None = None


@record(frozen=True, slots=True)
class Standing:
    """Where a sequence stands after a turn. `state` is sealed, for a caller that brought a state."""

    position: int
    durable_position: int  # a crash of the server loses nothing up to here
    state: bytes = b""
    is_replay: bool = False  # the request was applied before; the answer comes from the record


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
    """How a generation ended. The session is already saved."""

    reason: FinishReason
    stop: str
    standing: Standing
    num_input_tokens: int
    num_generated_tokens: int
    seed: int


@record(frozen=True, slots=True)
class GenerationPiece:
    """The tokens and the text since the last piece. Only the last piece has an `end`."""

    tokens: tuple[Generated, ...]
    text: str
    end: GenerationEnd | None = None
    branch: int = 0
    receipt: Receipt | None = None  # of a turn with a lineage; the same in all its pieces


@record(frozen=True, slots=True)
class PredictionRequest:
    input: Input = ()
    num_candidates: int = 10
    word_prefix: str | None = None  # None: no words
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
    num_candidates: int = 0  # the likeliest tokens in each token's place


@record(frozen=True, slots=True)
class ScoredToken:
    id: int
    log_probability: float
    rank: int
    is_hit: bool
    text: str
    candidates: tuple[Candidate, ...] = ()


@record(frozen=True, slots=True)
class ScoreTotals:
    num_tokens: int
    log_probability: float  # nats, summed
    num_hits: int
    standing: Standing

    @property
    def perplexity(self) -> float:
        """The perplexity: 1 for no tokens, infinite if a float cannot hold it."""
        mean = -self.log_probability / max(self.num_tokens, 1)
        return math.exp(mean) if mean < 700 else math.inf


@record(frozen=True, slots=True)
class ScoringPiece:
    tokens: tuple[ScoredToken, ...]
    totals: ScoreTotals | None = None
