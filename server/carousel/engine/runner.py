"""Runs one step on the model, in the engine's thread: consumes tokens, then answers each lane's ask.

It does not decide which turns run. It groups rows by what they need, and no result depends on the group: the model
computes each row on its own. Legend: B rows, T tokens, H hidden width, N asked rows.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from carousel.bundle.layout import Array, Rows
from carousel.engine import sampler
from carousel.engine.jobs import Ask, Outcome, Step, Work
from carousel.engine.model import StepModel
from carousel.engine.states import LaneStates
from carousel.engine.step_budget import StepSeconds
from carousel.errors import ModelFailed
from carousel.turns import Candidate, Generate, Predict, Sampling, Snapshot

Row = tuple[Work, Outcome]


class Runner:
    """The model and the lanes' states."""

    def __init__(self, model: StepModel, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self.seconds = StepSeconds(0, 0, 0)  # of the last step
        self._states = LaneStates()

    def run(self, step: Step) -> list[Outcome]:
        """Runs the step. Returns outcomes in the order of step.works. A row with values that are not finite fails
        alone."""
        started = self._clock()
        for job in step.admitted:
            assert job.lane is not None
            self._states.load(job.lane, job.turn.start)
        rows = [(work, Outcome()) for work in step.works]
        score_hidden = {
            work.lane: self._states.hidden([work.lane]) for work in step.works if work.ask is Ask.SCORES and work.ids
        }
        singles, chunks = _by_length(rows)
        if singles:
            self._consume(singles, score_hidden)
        chunk_seconds = self._consume_chunks(chunks, score_hidden) if chunks else 0.0
        rating_seconds = self._answer([row for row in rows if row[1].error is None], score_hidden)
        for work, outcome in rows:
            if work.is_last and outcome.error is None:
                outcome.snapshot = self._snapshot(work)
        rest = self._clock() - started - chunk_seconds - rating_seconds
        self.seconds = StepSeconds(chunk_seconds, rating_seconds, rest)
        return [outcome for _, outcome in rows]

    def _consume_chunks(self, rows: Sequence[Row], score_hidden: dict[int, Rows]) -> float:
        """Consumes the chunks of prompts. Returns the seconds that it took."""
        started = self._clock()
        self._consume(rows, score_hidden)
        return self._clock() - started

    def _consume(self, rows: Sequence[Row], score_hidden: dict[int, Rows]) -> None:
        lanes = [work.lane for work, _ in rows]
        ids_BT, lengths_B = _pad([work.ids for work, _ in rows])
        hidden_BTH, batch = self._model.core(ids_BT, lengths_B, self._states.gather(lanes))
        hidden_BH = _last(hidden_BTH, lengths_B)
        self._states.scatter(lanes, batch, hidden_BH)
        _mark_broken(rows, hidden_BH)
        for index, lane in enumerate(lanes if score_hidden else ()):
            if lane in score_hidden:  # the hidden vector before token t scores it
                before = [score_hidden[lane], hidden_BTH[index, : lengths_B[index] - 1]]
                score_hidden[lane] = np.concatenate(before)

    def _answer(self, rows: Sequence[Row], score_hidden: dict[int, Rows]) -> float:
        """Answers all rows. Returns the seconds that scoring took, which is work on the fed tokens."""
        by_ask: dict[Ask, list[Row]] = {}
        for row in rows:
            by_ask.setdefault(row[0].ask, []).append(row)
        if plain := by_ask.get(Ask.LIKELIEST):
            self._answer_likeliest(plain)
        if ranked := by_ask.get(Ask.CANDIDATES):
            self._answer_ranked(ranked)
        if drawn := by_ask.get(Ask.PROBABILITIES):
            self._answer_drawn(drawn)
        if whole := by_ask.get(Ask.LOGITS):
            _answer_whole(whole, self._model.logits(self._hidden(whole)))
        if not (rated := [row for row in by_ask.get(Ask.SCORES, ()) if row[0].ids]):
            return 0.0
        started = self._clock()
        for work, outcome in rated:
            self._answer_scores(work, score_hidden[work.lane], outcome)
        return self._clock() - started

    def _answer_ranked(self, rows: Sequence[Row]) -> None:
        num_wanted = [_num_candidates(work) for work, _ in rows]
        found = self._model.candidates(self._hidden(rows), max(1, *num_wanted))
        log_probs_NK = found.log_probs_NK
        finite_N = np.isfinite(log_probs_NK[:, 0]).tolist()
        answers = zip(rows, num_wanted, found.ids_NK.tolist(), log_probs_NK.tolist(), finite_N, strict=True)
        for (_, outcome), num, ids_K, log_probs_K, is_finite in answers:
            if not is_finite:
                outcome.error = _not_finite()
                continue
            outcome.candidates = tuple(map(Candidate, ids_K[:num], log_probs_K[:num]))
            outcome.token_id = ids_K[0]
            outcome.log_probability = log_probs_K[0] if num else None

    def _answer_likeliest(self, rows: Sequence[Row]) -> None:
        """Answers greedy choices without probabilities, which need no normaliser."""
        found = self._model.likeliest(self._hidden(rows))
        answers = zip(rows, found.ids_N.tolist(), np.isfinite(found.logits_N).tolist(), strict=True)
        for (_, outcome), token_id, is_finite in answers:
            outcome.token_id = token_id
            if not is_finite:
                outcome.error = _not_finite()

    def _answer_drawn(self, rows: Sequence[Row]) -> None:
        samplings = [_sampling_of(work) for work, _ in rows]
        temperatures_N = np.array([sampling.temperature for sampling in samplings], np.float32)
        probabilities_NV = self._model.probabilities(self._hidden(rows), temperatures_N)
        is_finite_N = np.isfinite(probabilities_NV[:, 0])  # the row's sum divides all, so one value shows it for all
        good = np.flatnonzero(is_finite_N).tolist()
        positions = [_next_position(rows[index][0]) for index in good]
        good_NV = sampler.select_rows(probabilities_NV, good)
        tokens = sampler.draw_all(good_NV, [samplings[index] for index in good], positions)
        for index, token_id in zip(good, tokens, strict=True):
            rows[index][1].token_id = token_id
        for index in np.flatnonzero(~is_finite_N).tolist():
            rows[index][1].error = _not_finite()

    def _answer_scores(self, work: Work, hidden_NH: Rows, outcome: Outcome) -> None:
        hidden_NH = np.ascontiguousarray(hidden_NH)
        scores = self._model.score(hidden_NH, np.array(work.ids, np.int64))
        if not np.isfinite(scores.log_probs_N).all():
            outcome.error = _not_finite()
        outcome.log_probabilities = tuple(scores.log_probs_N.tolist())
        outcome.ranks = tuple(scores.ranks_N.tolist())
        if num_wanted := _num_candidates(work):
            found = self._model.candidates(hidden_NH, num_wanted)
            rows = zip(found.ids_NK.tolist(), found.log_probs_NK.tolist(), strict=True)
            outcome.scored_candidates = tuple([tuple(map(Candidate, *row)) for row in rows])

    def _hidden(self, rows: Sequence[Row]) -> Rows:
        return self._states.hidden([work.lane for work, _ in rows])

    def _snapshot(self, work: Work) -> Snapshot:
        state, hidden_H = self._states.save(work.lane)
        return Snapshot(work.job.position + len(work.ids), state, hidden_H, _recent_ids(work))


def _last(hidden_BTH: Rows, lengths_B: Array) -> Rows:
    num_rows, width, size = hidden_BTH.shape
    if width == 1:
        same_place: Rows = hidden_BTH.reshape((num_rows, size))
        return same_place
    return np.asarray(hidden_BTH[np.arange(num_rows), lengths_B - 1])


def _mark_broken(rows: Sequence[Row], hidden_BH: Rows) -> None:
    """Marks the rows whose hidden vector is not finite. It checks vectors on a device only when one is saved and all
    are fetched anyway; otherwise their answers show it."""
    if isinstance(hidden_BH, np.ndarray) or any(work.is_last for work, _ in rows):
        for row in np.flatnonzero(~np.isfinite(hidden_BH).all(axis=1)).tolist():
            rows[row][1].error = _not_finite()


def _by_length(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Separates single tokens from the chunks of prompts. So the many rows are not padded to the length of the few, and
    the cost of prompts can be measured."""
    singles = [row for row in rows if len(row[0].ids) == 1 and not row[0].is_chunk]
    if len(singles) == len(rows):
        return singles, []
    return singles, [row for row in rows if row[0].is_chunk or len(row[0].ids) > 1]


def _pad(ids: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Returns ids_BT, with zeros after each row's end, and lengths_B."""
    lengths = list(map(len, ids))
    ids_BT = np.zeros((len(ids), max(lengths)), np.int64)
    if ids_BT.shape[1] == 1:
        ids_BT[:, 0] = [row[0] for row in ids]
    else:
        for index, row in enumerate(ids):
            ids_BT[index, : len(row)] = row
    return ids_BT, np.array(lengths, np.int32)


def _num_candidates(work: Work) -> int:
    goal = work.job.turn.goal
    return goal.num_candidates


def _answer_whole(rows: Sequence[Row], logits_NV: Array) -> None:
    is_finite = np.isfinite(logits_NV.max(axis=1)).tolist()  # the maximum is NaN if any value is NaN
    for (work, outcome), logits_V, is_good in zip(rows, logits_NV, is_finite, strict=True):
        if is_good:
            _answer_from(logits_V, work, outcome)
        else:
            outcome.error = _not_finite()


def _answer_from(logits_V: Array, work: Work, outcome: Outcome) -> None:
    goal = work.job.turn.goal
    if isinstance(goal, Predict):
        outcome.candidates = sampler.rank_candidates(logits_V, goal.num_candidates, goal.allowed_ids)
        return
    outcome.token_id = sampler.choose(logits_V, _sampling_of(work), _recent_ids(work), _next_position(work))
    if num_candidates := _num_candidates(work):
        outcome.candidates = sampler.rank_candidates(logits_V, num_candidates)
        outcome.log_probability = float(sampler.log_probabilities(logits_V)[outcome.token_id])


def _sampling_of(work: Work) -> Sampling:
    goal = work.job.turn.goal
    assert isinstance(goal, Generate)
    return goal.sampling


def _recent_ids(work: Work) -> tuple[int, ...]:
    """Returns the last tokens, including those just fed, as many as the penalties look back at: maybe none."""
    window = work.job.recent_ids.maxlen or 0
    return (*work.job.recent_ids, *work.ids)[-window:] if window else ()


def _next_position(work: Work) -> int:
    """Returns the number of tokens before the one to choose."""
    return work.job.position + len(work.ids)


def _not_finite() -> ModelFailed:
    return ModelFailed("the model produced a value that is not a number")
