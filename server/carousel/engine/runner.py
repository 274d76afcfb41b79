"""Runs one step on the model, in the engine's worker thread: consume, then answer what each lane asks.

It decides nothing about who runs. Rows are grouped by what they need, which no result depends on: the model treats each
row by itself. Legend: B rows, T tokens, H hidden width, N asked rows.
"""

from collections.abc import Sequence

import numpy as np

from carousel.bundle.layout import Array
from carousel.engine import sampler
from carousel.engine.model import StepModel
from carousel.engine.scheduler import Ask, Outcome, Step, Work
from carousel.engine.states import LaneStates
from carousel.errors import ModelFailed
from carousel.turns import Candidate, Generate, Predict, Snapshot


class Runner:
    """The model and the lanes' states."""

    def __init__(self, model: StepModel, hidden_size: int, num_lanes: int) -> None:
        self._model = model
        self._states = LaneStates(model.layout, hidden_size, num_lanes)

    def run(self, step: Step) -> list[Outcome]:
        """Outcomes in the order of step.works. A row whose values are not finite fails alone."""
        for lane, snapshot in step.admitted:
            self._states.load(lane, snapshot)
        outcomes = {work.lane: Outcome() for work in step.works}
        score_hidden = {work.lane: self._states.hidden[work.lane].copy() for work in step.works if _scores(work)}
        for works in _by_length(step.works):
            self._consume(works, score_hidden)
        self._fail_broken(step.works, outcomes)
        self._answer([work for work in step.works if outcomes[work.lane].error is None], outcomes, score_hidden)
        for work in step.works:
            if work.is_last and outcomes[work.lane].error is None:
                outcomes[work.lane].snapshot = self._snapshot(work)
        return [outcomes[work.lane] for work in step.works]

    def _consume(self, works: Sequence[Work], score_hidden: dict[int, Array]) -> None:
        lengths_B = np.array([len(work.ids) for work in works], np.int32)
        ids_BT = np.zeros((len(works), int(lengths_B.max())), np.int64)
        for row, work in enumerate(works):
            ids_BT[row, : len(work.ids)] = work.ids
        lanes = [work.lane for work in works]
        hidden_BTH, batch = self._model.core(ids_BT, lengths_B, self._states.gather(lanes))
        self._states.scatter(lanes, batch, hidden_BTH[np.arange(len(works)), lengths_B - 1])
        for row, work in enumerate(works):
            if _scores(work):  # token t is rated by the hidden vector before it
                before_1H = score_hidden[work.lane][None]
                score_hidden[work.lane] = np.concatenate([before_1H, hidden_BTH[row, : len(work.ids) - 1]])

    def _fail_broken(self, works: Sequence[Work], outcomes: dict[int, Outcome]) -> None:
        hidden_BH = self._states.hidden[[work.lane for work in works]]
        finite_B = np.all(np.isfinite(hidden_BH), axis=1)
        for work, is_finite in zip(works, finite_B, strict=True):
            if not is_finite:
                outcomes[work.lane].error = _not_finite()

    def _answer(self, works: Sequence[Work], outcomes: dict[int, Outcome], score_hidden: dict[int, Array]) -> None:
        ranked = [work for work in works if _needs_candidates_alone(work)]
        whole = [work for work in works if _needs_whole_logits(work)]
        if ranked:
            self._answer_ranked(ranked, outcomes)
        if whole:
            logits_NV = self._model.logits(self._states.hidden[[work.lane for work in whole]])
            for work, logits_V in zip(whole, logits_NV, strict=True):
                _answer_whole(work, logits_V, outcomes[work.lane])
        for work in works:
            if _scores(work):
                self._answer_scores(work, score_hidden[work.lane], outcomes[work.lane])

    def _answer_ranked(self, works: Sequence[Work], outcomes: dict[int, Outcome]) -> None:
        num_wanted = [_num_candidates(work) for work in works]
        found = self._model.candidates(self._states.hidden[[work.lane for work in works]], max(1, *num_wanted))
        log_probs_NK = found.log_probs_NK
        for row, (work, num) in enumerate(zip(works, num_wanted, strict=True)):
            outcome = outcomes[work.lane]
            if not np.isfinite(log_probs_NK[row, 0]):
                outcome.error = _not_finite()
                continue
            pairs = zip(found.ids_NK[row, :num].tolist(), log_probs_NK[row, :num].tolist(), strict=True)
            outcome.candidates = tuple(Candidate(*pair) for pair in pairs)
            outcome.token_id = int(found.ids_NK[row, 0])
            outcome.log_probability = float(log_probs_NK[row, 0]) if num else None

    def _answer_scores(self, work: Work, hidden_NH: Array, outcome: Outcome) -> None:
        scores = self._model.score(np.ascontiguousarray(hidden_NH), np.array(work.ids, np.int64))
        if not np.isfinite(scores.log_probs_N).all():
            outcome.error = _not_finite()
        outcome.log_probabilities = tuple(scores.log_probs_N.tolist())
        outcome.ranks = tuple(scores.ranks_N.tolist())

    def _snapshot(self, work: Work) -> Snapshot:
        state, hidden_H = self._states.save(work.lane)
        window = work.job.recent_ids.maxlen or 0
        recent_ids = (*work.job.recent_ids, *work.ids)[-window:] if window else ()
        return Snapshot(work.job.position + len(work.ids), state, hidden_H, recent_ids)


def _scores(work: Work) -> bool:
    return work.ask is Ask.SCORES and bool(work.ids)


def _by_length(works: Sequence[Work]) -> list[list[Work]]:
    """Single tokens and longer chunks apart, so that the many are not padded to the length of the few."""
    groups = [[work for work in works if len(work.ids) == 1], [work for work in works if len(work.ids) > 1]]
    return [group for group in groups if group]


def _needs_candidates_alone(work: Work) -> bool:
    goal = work.job.turn.goal
    if isinstance(goal, Generate):
        return work.ask is Ask.CHOICE and goal.sampling.is_plain_greedy
    return work.ask is Ask.CANDIDATES and isinstance(goal, Predict) and goal.allowed_ids is None


def _needs_whole_logits(work: Work) -> bool:
    return work.ask in (Ask.CHOICE, Ask.CANDIDATES) and not _needs_candidates_alone(work)


def _num_candidates(work: Work) -> int:
    goal = work.job.turn.goal
    return goal.num_candidates if isinstance(goal, Generate | Predict) else 0


def _answer_whole(work: Work, logits_V: Array, outcome: Outcome) -> None:
    goal = work.job.turn.goal
    if not np.isfinite(logits_V).all():
        outcome.error = _not_finite()
    elif isinstance(goal, Predict):
        outcome.candidates = sampler.rank_candidates(logits_V, goal.num_candidates, goal.allowed_ids)
    elif isinstance(goal, Generate):
        recent_ids = (*work.job.recent_ids, *work.ids)[-(work.job.recent_ids.maxlen or 1) :]
        position = work.job.position + len(work.ids)
        outcome.token_id = sampler.choose(logits_V, goal.sampling, recent_ids, position)
        if goal.num_candidates:
            outcome.candidates = sampler.rank_candidates(logits_V, goal.num_candidates)
            outcome.log_probability = float(sampler.log_probabilities(logits_V)[outcome.token_id])


def _not_finite() -> ModelFailed:
    return ModelFailed("the model produced a value that is not a number")
