"""How many prompt tokens a step may take while other lanes wait for their next token, learned from past steps' times.

A step may last `STRETCH` times as long as the waiting lanes alone would take; prompts get all of the rest. Both times
are medians of the last few steps of the same shape, so that a single slow step changes nothing. A new shape's time is a
careful estimate from its neighbours. Decisions only: the caller measures the seconds.
"""

import collections
import statistics

from carousel.records import record

STRETCH = 2.4  # the promise is 2.5 at the 99th percentile; the rest is for steps that happen to be slow
_SLOWDOWN = 1.15  # of the waiting lanes, by prompts in the caches; any more is the machine's, not the prompts'
_FIRST_TOKENS = 16  # of prompts in a step, while nothing is known
_NUM_KEPT = 9  # steps per shape
_NUM_NEEDED = 3  # steps before a shape counts as known


@record(frozen=True, slots=True)
class StepShape:
    """What ran: the numbers of answered lanes, of prompts with a chunk and of scored tokens, and the longest chunk."""

    num_answered: int
    num_prompts: int = 0
    chunk: int = 0
    num_rated: int = 0


@record(frozen=True, slots=True)
class StepSeconds:
    """How long a step took: to consume prompts' chunks, to score tokens, and for all else."""

    prompts: float
    ratings: float
    rest: float


class StepBudget:
    """The budget: it learns with `note` and decides with `chunk`."""

    def __init__(self) -> None:
        self._alone = _Medians()  # seconds of a step without prompts, by the number of answered lanes
        self._beside = _Medians()  # the same for a step with prompts, without the prompts' own time
        self._columns = _Medians()  # seconds for one more token of each prompt, by the number of prompts
        self._rating = _Samples(maxlen=_NUM_KEPT)  # seconds for one scored token

    def note(self, shape: StepShape, seconds: StepSeconds) -> None:
        if shape.num_answered:
            (self._beside if shape.num_prompts else self._alone).add(shape.num_answered, seconds.rest)
        if shape.num_prompts:
            self._columns.add(shape.num_prompts, seconds.prompts / shape.chunk)
        if shape.num_rated:
            self._rating.append(seconds.ratings / shape.num_rated)

    def chunk(self, num_waiting: int, num_prompts: int, num_rated_prompts: int = 0) -> int:
        """Returns how many tokens each prompt may feed while other lanes wait for their next token: at least one."""
        alone = self._alone_seconds(num_waiting)
        column = self._column_seconds(num_prompts, num_rated_prompts)
        if alone is None or column is None:
            return max(1, _FIRST_TOKENS // num_prompts)
        beside = self._beside.at_most(num_waiting) or alone
        return max(1, int((STRETCH * alone - beside) / column))

    def _alone_seconds(self, num_waiting: int) -> float | None:
        """Estimates the waiting lanes' time without prompts, even if they had no such step lately, or ever."""
        alone = self._alone.at_least(num_waiting)
        beside = self._beside.at_least(num_waiting)
        if alone is None or beside is None:
            return alone or beside
        return max(alone, beside / _SLOWDOWN)

    def _column_seconds(self, num_prompts: int, num_rated_prompts: int) -> float | None:
        """Estimates the time for one more token of each prompt."""
        column = self._columns.at_most(num_prompts)
        if not num_rated_prompts or column is None:
            return column
        return column + num_rated_prompts * statistics.median(self._rating) if self._rating else None


_Samples = collections.deque[float]


class _Medians:
    """Medians of the last samples by size. Values grow with the size, at most in proportion to it."""

    def __init__(self) -> None:
        self._samples: dict[int, _Samples] = {}

    def add(self, size: int, value: float) -> None:
        samples = self._samples.get(size)
        if samples is None:
            samples = self._samples[size] = _Samples(maxlen=_NUM_KEPT)
        samples.append(value)

    def at_least(self, size: int) -> float | None:
        """Returns a lower bound: the known value, a smaller size's value, or a larger size's value in proportion."""
        return max((min(1.0, size / known) * value for known, value in self._known(size)), default=None)

    def at_most(self, size: int) -> float | None:
        """Returns an upper bound."""
        return min((max(1.0, size / known) * value for known, value in self._known(size)), default=None)

    def _known(self, size: int) -> list[tuple[int, float]]:
        own = self._samples.get(size)
        if own is not None and len(own) >= _NUM_NEEDED:
            return [(size, statistics.median(own))]
        all_known = self._samples.items()
        return [(known, statistics.median(values)) for known, values in all_known if len(values) >= _NUM_NEEDED]
