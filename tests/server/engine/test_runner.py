"""A step of the runner gives each lane what the model gives it alone, and reports a broken row as that row's error."""

from typing import Any

import numpy as np
import pytest
from tests.fakes import SlowOracle, ToyModel, same_snapshot

from carousel.engine import sampler
from carousel.engine.jobs import Ask, Job, Outcome, Step, Work, ask_for
from carousel.engine.runner import Runner
from carousel.errors import ModelFailed
from carousel.turns import Generate, Goal, Predict, Sampling, Score, Snapshot, Turn

GREEDY = Generate(Sampling(seed=0, temperature=0), 9)


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


def work(lane: int, ids: tuple[int, ...], ask: Ask, goal: Goal, start: Snapshot, *, is_last: bool = False) -> Work:
    return Work(lane, ids, ask, is_last, Job(Turn(start, ids, goal), penalty_window=64))


def run(model: ToyModel, start: Snapshot, *works: Work) -> list[Outcome]:
    runner = Runner(model)
    for one in works:
        one.job.lane = one.lane
    return runner.run(Step(tuple(one.job for one in works), works))


def test_outcomes_come_in_the_order_of_the_works(model: ToyModel) -> None:
    """Single tokens, chunks and lanes without tokens mix in a step; each answer is its own lane's."""
    oracle = SlowOracle(model)
    start = oracle.start()
    prompts = [(1, 2, 3), (4,), (), (5, 6), (7,)]
    works = [work(6 - n, ids, Ask.CANDIDATES, GREEDY, start) for n, ids in enumerate(prompts)]
    outcomes = run(model, start, *works)
    assert [one.token_id for one in outcomes] == [oracle.greedy(start, ids, 1)[0][0] for ids in prompts]


def test_the_last_work_brings_the_state_back(model: ToyModel) -> None:
    """is_last gives the oracle's snapshot; other works give none."""
    oracle = SlowOracle(model)
    start = oracle.start()
    last = work(0, (3, 1, 4), Ask.NOTHING, GREEDY, start, is_last=True)
    more = work(1, (3, 1, 4), Ask.NOTHING, GREEDY, start)
    outcomes = run(model, start, last, more)
    assert outcomes[0].snapshot is not None
    assert same_snapshot(outcomes[0].snapshot, oracle.feed(start, (3, 1, 4)))
    assert outcomes[1].snapshot is None


def test_single_tokens_are_not_padded_to_a_chunk(model: ToyModel) -> None:
    """Lanes with one token and lanes with a chunk are separate batches."""
    start = SlowOracle(model).start()
    model.steps.clear()
    run(
        model,
        start,
        work(0, (1,), Ask.NOTHING, GREEDY, start),
        work(1, tuple(range(9)), Ask.NOTHING, GREEDY, start),
        work(2, (2,), Ask.NOTHING, GREEDY, start),
    )
    assert sorted(model.steps) == [(1, 9), (2, 1)]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=4),
        Sampling(seed=4, temperature=0, logit_bias=((2, 50.0),)),
        Sampling(seed=4, repetition_penalty=3.0),
    ],
)
def test_choices_are_the_samplers_at_the_lanes_position(model: ToyModel, sampling: Sampling) -> None:
    """The sampler sees the lane's logits, its recent tokens with those just fed, and the position after them."""
    oracle = SlowOracle(model)
    start = oracle.feed(oracle.start(), (9, 9, 2))
    fed = oracle.feed(start, (5, 5))
    chosen = run(model, start, work(0, (5, 5), Ask.LOGITS, Generate(sampling, 3, num_candidates=2), start))[0]
    logits_V = oracle.logits(fed)
    assert chosen.token_id == sampler.choose(logits_V, sampling, fed.recent_ids, fed.position)
    assert chosen.candidates == sampler.rank_candidates(logits_V, 2)
    assert chosen.log_probability == pytest.approx(sampler.log_probabilities(logits_V)[chosen.token_id])


@pytest.mark.parametrize("options", [{}, {"top_p": 0.6}, {"min_p": 0.1, "temperature": 1.7}, {"top_k": 4}])
def test_draws_from_probabilities_and_from_logits_agree(model: ToyModel, options: dict[str, Any]) -> None:
    """Asking for candidates, which takes the logits, changes no token; nor does anybody else in the step."""
    start = SlowOracle(model).start()
    for seed in range(20):
        sampling = Sampling(seed=seed, **options)
        goals = Generate(sampling, 3), Generate(sampling, 3, num_candidates=2), Generate(Sampling(seed=seed), 3)
        asked = zip((5, 5, 6), goals, strict=True)
        works = [work(lane, (token,), ask_for(goal), goal, start) for lane, (token, goal) in enumerate(asked)]
        plain, ranked, _ = run(model, start, *works)
        assert plain.token_id == ranked.token_id
        assert plain.token_id == sampler.choose(SlowOracle(model).logits(_fed(model, start)), sampling, (), 1)


def _fed(model: ToyModel, start: Snapshot) -> Snapshot:
    return SlowOracle(model).feed(start, (5,))


@pytest.mark.parametrize(("window", "penalised"), [(0, ()), (1, (5,)), (2, (4, 5)), (3, (9, 4, 5)), (64, (9, 4, 5))])
def test_penalties_look_back_as_far_as_the_window(model: ToyModel, window: int, penalised: tuple[int, ...]) -> None:
    """Over what was fed before and now; a window of none penalises nothing, not even the last token."""
    oracle = SlowOracle(model)
    start, fed = oracle.feed(oracle.start(), (9,)), oracle.feed(oracle.start(), (9, 4, 5))
    for token in range(model.vocabulary_size):  # without penalties the likeliest by far
        goal = Generate(Sampling(seed=1, temperature=0, presence_penalty=50, logit_bias=((token, 40),)), 3)
        job = Job(Turn(start, (4, 5), goal), penalty_window=window)
        job.lane = 0
        found = Runner(model).run(Step((job,), (Work(0, (4, 5), Ask.LOGITS, True, job),)))[0]
        assert (found.token_id == token) == (token not in penalised)
        assert found.token_id == sampler.choose(oracle.logits(fed), goal.sampling, penalised, fed.position)
        assert found.snapshot is not None
        assert found.snapshot.recent_ids == penalised


def test_the_seconds_of_a_step_are_told_apart(model: ToyModel) -> None:
    """What prompts took, what ratings took, and the rest, by a clock that each row of the core moves by 10 and each
    look by 1; one token of a longer prompt runs apart from the lanes that wait."""
    start = SlowOracle(model).start()
    model.steps.clear()
    ticks = iter(range(100))
    runner = Runner(model, lambda: float(next(ticks) + sum(10 * rows for rows, _ in model.steps)))
    single = Job(Turn(start, (1,), GREEDY), 0)
    prompt = Job(Turn(start, (1, 2, 3), GREEDY), 0)
    rated = Job(Turn(start, (1, 2, 3), Score()), 0)
    single.lane, prompt.lane, rated.lane = 0, 1, 2
    works = (
        Work(0, (1,), Ask.LIKELIEST, False, single),
        Work(1, (1,), Ask.NOTHING, False, prompt, is_chunk=True),
        Work(2, (1,), Ask.SCORES, False, rated, is_chunk=True),
    )
    runner.run(Step((single, prompt, rated), works, 2))
    assert (runner.seconds.prompts, runner.seconds.ratings) == (21, 1)  # two rows and a tick; a tick
    assert runner.seconds.rest == 13  # one row, and the other ticks
    assert model.steps == [(1, 1), (2, 1)]


def test_both_ways_to_candidates_agree(model: ToyModel) -> None:
    """Candidates from the head's ranking and candidates from whole logits are the same."""
    start = SlowOracle(model).start()
    everything = np.arange(model.vocabulary_size)
    ranked, whole = run(
        model,
        start,
        work(0, (3,), Ask.CANDIDATES, Predict(5), start, is_last=True),
        work(1, (3,), Ask.LOGITS, Predict(5, everything), start, is_last=True),
    )
    assert [one.id for one in ranked.candidates] == [one.id for one in whole.candidates]
    np.testing.assert_allclose(
        [one.log_probability for one in ranked.candidates], [one.log_probability for one in whole.candidates], atol=1e-5
    )


def test_each_lane_gets_as_many_candidates_as_it_asked_for(model: ToyModel) -> None:
    """Lanes of one batch may want none, some, or more than there are."""
    start = SlowOracle(model).start()
    works = [work(k, (3,), Ask.CANDIDATES, Predict(n), start, is_last=True) for k, n in enumerate((0, 1, 7, 99))]
    assert [len(one.candidates) for one in run(model, start, *works)] == [0, 1, 7, model.vocabulary_size]


def test_scores_rate_each_token_by_what_stands_before_it(model: ToyModel) -> None:
    """A chunk's first token is rated by the lane's hidden vector, the others by the chunk's."""
    oracle = SlowOracle(model)
    start = oracle.feed(oracle.start(), (8,))
    outcome = run(model, start, work(0, (3, 1, 4), Ask.SCORES, Score(), start, is_last=True))[0]
    snapshot, expected = start, []
    for token in (3, 1, 4):
        logits_V = oracle.logits(snapshot)
        expected.append((sampler.log_probabilities(logits_V)[token], int((logits_V > logits_V[token]).sum()) + 1))
        snapshot = oracle.feed(snapshot, (token,))
    np.testing.assert_allclose(outcome.log_probabilities, [one for one, _ in expected], atol=1e-5)
    assert outcome.ranks == tuple(rank for _, rank in expected)


@pytest.mark.parametrize(
    ("ask", "goal"),
    [(Ask.CANDIDATES, GREEDY), (Ask.CANDIDATES, Predict(2)), (Ask.SCORES, Score()), (Ask.NOTHING, GREEDY)],
)
def test_a_hidden_vector_that_is_not_a_number_fails_its_lane_alone(model: ToyModel, ask: Ask, goal: Goal) -> None:
    """NaN in a row is ModelFailed for that lane, without a snapshot; the neighbour is answered."""
    start = SlowOracle(model).start()
    model.poison_id = 13
    bad, good = run(
        model,
        start,
        work(0, (1, 13), ask, goal, start, is_last=True),
        work(1, (1, 12), ask, goal, start, is_last=True),
    )
    assert isinstance(bad.error, ModelFailed)
    assert bad.snapshot is None
    assert good.error is None


class _BrokenHead(ToyModel):
    """Its head answers NaN for rows whose first unit is positive, as a damaged output matrix might."""

    def logits(self, hidden_NH):  # type: ignore[no-untyped-def]
        logits_NV = super().logits(hidden_NH)
        logits_NV[hidden_NH[:, 0] > 0] = np.nan
        return logits_NV


@pytest.mark.parametrize(
    ("ask", "goal"),
    [
        (Ask.CANDIDATES, GREEDY),
        (Ask.PROBABILITIES, Generate(Sampling(seed=0), 9)),
        (Ask.CANDIDATES, Predict(2)),
        (Ask.LOGITS, Predict(2, np.arange(3))),
        (Ask.SCORES, Score()),
    ],
)
def test_logits_that_are_not_numbers_fail_their_lane_alone(ask: Ask, goal: Goal) -> None:
    """Whichever way the head is read, NaN is ModelFailed for the rows that have it."""
    model = _BrokenHead()
    oracle = SlowOracle(model)
    start = oracle.start()
    works = [work(lane, (token,), ask, goal, start) for lane, token in enumerate(range(8))]
    broken = [(start if ask is Ask.SCORES else oracle.feed(start, one.ids)).hidden_H[0] > 0 for one in works]
    outcomes = run(model, start, *works)
    assert [one.error is not None for one in outcomes] == broken
    assert ask is Ask.SCORES or len(set(broken)) == 2
