"""The values of a request's life: what a turn is, what it asks for, what comes back. No logic.

A session's past is a `Snapshot`. A `Turn` starts from one, feeds tokens, and then pursues a goal: generate, predict or
score. The engine answers with events; exactly one is the last: `Ended`, or an error.
"""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy.typing as npt

from carousel.records import record
from carousel.traces import UNRECORDED, Timeline

Array = npt.NDArray[Any]


@record(frozen=True, slots=True)
class Snapshot:
    """A sequence's past at a position. Immutable: no receiver may write into its arrays."""

    position: int  # tokens consumed
    state: tuple[Array, ...]  # an array per state tensor, in the layout's order, without a batch axis
    hidden_H: Array  # the core's output for the last token, which the head needs for the next one
    recent_ids: tuple[int, ...] = ()  # the last tokens, for penalties; up to the penalty window
    tail: bytes = b""  # trailing bytes of an incomplete character


@dataclass(frozen=True, slots=True)
class Span:
    """What an option may be. `above` leaves `low` itself out."""

    low: float
    high: float
    above: bool = False


def _option(default: float, low: float, high: float, *, above: bool = False) -> Any:
    return field(default=default, metadata={"span": Span(low, high, above)})


@record(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen, as callers say it: the one list of these options, named as in the wire contract,
    where users read what each means. `seed` None asks for a random one."""

    temperature: float = _option(1.0, 0, 100)
    top_k: int = _option(0, 0, math.inf)
    top_p: float = _option(1.0, 0, 1, above=True)
    min_p: float = _option(0.0, 0, 1)
    repetition_penalty: float = _option(1.0, 0, 100, above=True)
    presence_penalty: float = _option(0.0, -100, 100)
    frequency_penalty: float = _option(0.0, -100, 100)
    logit_bias: tuple[tuple[int, float], ...] = ()  # token ids, each once
    seed: int | None = None


@record(frozen=True, slots=True)
class Sampling(SamplingOptions):
    """The same with a seed, by which every choice is made."""

    seed: int = 0

    @classmethod
    def of(cls, options: SamplingOptions, seed: int) -> "Sampling":
        return cls(**{name: getattr(options, name) for name in _OPTIONS} | {"seed": seed})

    @property
    def has_penalties(self) -> bool:
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the choice is the likeliest token of the unchanged model."""
        return self.temperature == 0 and not self.has_penalties and not self.logit_bias


_OPTIONS = tuple(one.name for one in fields(SamplingOptions))
SAMPLING_SPANS = {one.name: one.metadata["span"] for one in fields(SamplingOptions) if "span" in one.metadata}


class FinishReason(enum.Enum):
    LENGTH = "length"
    STOP = "stop"
    STOP_ID = "stop_id"
    INPUT_END = "input_end"  # no token was to be generated


@record(frozen=True, slots=True)
class Generate:
    """Generates up to `max_tokens` tokens. `is_stop` gets each one in order, in the engine's thread, and ends the turn
    by returning True."""

    sampling: Sampling
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    num_candidates: int = 0
    is_stop: Callable[[int], bool] | None = None


@record(frozen=True, slots=True)
class Predict:
    """Returns the likeliest next tokens, among `allowed_ids` when given (sorted, distinct)."""

    num_candidates: int
    allowed_ids: Array | None = None


@record(frozen=True, slots=True)
class Score:
    """Scores every fed token, and returns the likeliest tokens in its place if asked."""

    num_candidates: int = 0


Goal = Generate | Predict | Score


@record(frozen=True, slots=True)
class Turn:
    """One advance of one sequence."""

    start: Snapshot
    ids: tuple[int, ...]  # to feed first; checked against the vocabulary by the caller
    goal: Goal
    keeps_state: bool = True  # False when nothing continues from it: the last generated token need not be consumed
    owner: str = ""  # the turn's owner, for sharing lanes fairly
    timeline: Timeline = field(default=UNRECORDED, compare=False)


@record(frozen=True, slots=True)
class Candidate:
    id: int
    log_probability: float


@record(frozen=True, slots=True)
class Generated:
    """One token was chosen. The log-probability is present when the caller asked for candidates."""

    id: int
    log_probability: float | None = None
    candidates: tuple[Candidate, ...] = ()


@record(frozen=True, slots=True)
class Predicted:
    candidates: tuple[Candidate, ...]


@record(frozen=True, slots=True)
class Scored:
    """More of the fed tokens were scored."""

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    ranks: tuple[int, ...]
    candidates: tuple[tuple[Candidate, ...], ...] = ()  # of each token, if asked


@record(frozen=True, slots=True)
class Ended:
    """The last event. `snapshot` is the sequence's new state, without the text tail, which the engine ignores."""

    reason: FinishReason
    snapshot: Snapshot


Event = Generated | Predicted | Scored | Ended
