"""A turn on its way through the engine, and its part of a step: the data between scheduler and runner."""

import collections
import enum
from dataclasses import dataclass

from carousel.engine.columns import Advances
from carousel.engine.sampler import is_plain
from carousel.errors import CarouselError
from carousel.records import record
from carousel.turns import Candidate, FinishReason, Generate, Goal, Predict, Score, Snapshot, Turn


class Ask(enum.IntEnum):  # unlike an Enum's, its hash costs no call
    """What the model computes after a lane has consumed its tokens: only what its next token or answer needs."""

    NOTHING = enum.auto()
    LIKELIEST = enum.auto()  # the token alone, without its probability
    CANDIDATES = enum.auto()  # the likeliest tokens
    PROBABILITIES = enum.auto()  # at the temperature
    LOGITS = enum.auto()  # everything else follows from them
    SCORES = enum.auto()  # scores of the tokens consumed in this step


class Job:
    """A turn on its way through the engine. Only the scheduler changes it."""

    __slots__ = (
        "ask",
        "finish",
        "is_cancelled",
        "is_short",
        "lane",
        "num_fed",
        "num_generated",
        "num_left",
        "number",
        "position",
        "recent_ids",
        "turn",
        "unfed_id",
    )

    def __init__(self, turn: Turn, penalty_window: int, number: int = 0, is_short: bool = False) -> None:
        self.turn = turn
        self.number = number  # in order of arrival
        self.is_short = is_short  # may use a short lane
        self.lane: int | None = None
        self.is_cancelled = False
        self.num_fed = 0  # of turn.ids
        self.num_left = len(turn.ids)  # not fed yet
        self.num_generated = 0
        self.unfed_id: int | None = None  # chosen, but not yet consumed
        self.position = turn.start.position
        self.recent_ids = collections.deque(turn.start.recent_ids, maxlen=penalty_window)
        self.finish: FinishReason | None = None  # set when only consuming is left
        self.ask = ask_for(turn.goal)  # after the whole input

    def __repr__(self) -> str:
        fed = f"{self.num_fed}/{len(self.turn.ids)} fed"
        return f"Job(lane {self.lane}, {fed}, {self.num_generated} generated)"


@record(frozen=True, slots=True)
class Work:
    """One lane's part of a step: consume `ids` (none: keep the hidden vector), then answer `ask`."""

    lane: int
    ids: tuple[int, ...]
    ask: Ask
    is_last: bool  # the step returns the lane's state
    job: Job
    is_chunk: bool = False  # part of a prompt: runs apart from the lanes that wait for their next token


@record(frozen=True, slots=True)
class Step:
    """What one run of the model does: the works of lanes, and the tokens of held sequences, which are all alike and so
    in columns. The lanes of `admitted` jobs first load their snapshots."""

    admitted: tuple[Job, ...]
    works: tuple[Work, ...]
    num_prompts: int = 0  # works that are chunks
    advances: Advances | None = None

    @property
    def num_lanes(self) -> int:
        return len(self.works) + (0 if self.advances is None else len(self.advances))

    @property
    def num_tokens(self) -> int:
        num_advances = 0 if self.advances is None else len(self.advances)
        return sum([len(work.ids) for work in self.works], num_advances)


@dataclass(slots=True)
class Outcome:
    """The result of one work, which the runner fills in; `snapshot` only for the last work of a job."""

    error: CarouselError | None = None
    token_id: int = -1
    log_probability: float | None = None
    candidates: tuple[Candidate, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()
    scored_candidates: tuple[tuple[Candidate, ...], ...] = ()
    snapshot: Snapshot | None = None


def ask_for(goal: Goal) -> Ask:
    """Returns what the goal needs for its next token, its answer, or its scores."""
    match goal:
        case Generate() if goal.sampling.is_plain_greedy:
            return Ask.CANDIDATES if goal.num_candidates else Ask.LIKELIEST
        case Generate():
            return Ask.PROBABILITIES if is_plain(goal.sampling) and not goal.num_candidates else Ask.LOGITS
        case Predict():
            return Ask.CANDIDATES if goal.allowed_ids is None else Ask.LOGITS
        case Score():
            return Ask.SCORES
