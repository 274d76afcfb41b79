"""The scheduler admits in order, shares a step fairly, and lets go of every lane exactly once."""

import random

import numpy as np
import pytest
from tests.bounds import make_bounds

from carousel.engine.jobs import Ask, Job, Outcome, Step, Work
from carousel.engine.scheduler import Delivery, Scheduler, _shape
from carousel.engine.step_budget import StepSeconds, StepShape
from carousel.errors import ModelFailed, Overloaded, ShuttingDown
from carousel.shares import OwnerLimits
from carousel.turns import (
    Ended,
    FinishReason,
    Generate,
    Generated,
    Goal,
    Predict,
    Predicted,
    Sampling,
    Score,
    Scored,
    Snapshot,
    Turn,
)

START = Snapshot(0, (), np.zeros(1, np.float32))
AFTER = Snapshot(99, (), np.zeros(1, np.float32))


def turn(num_ids: int, goal: Goal | None = None, owner: str = "", *, keeps_state: bool = True) -> Turn:
    return Turn(START, tuple(range(num_ids)), goal or Predict(1), keeps_state, owner)


def generate(max_tokens: int) -> Generate:
    return Generate(Sampling(seed=0, temperature=0), max_tokens)


def answers(step: Step) -> list[Outcome]:
    return [Outcome(token_id=7, snapshot=AFTER if work.is_last else None) for work in step.works]


def run_step(scheduler: Scheduler) -> tuple[Step, list[Delivery]]:
    step = scheduler.plan()
    assert step is not None
    return step, scheduler.commit(step, answers(step))


def run_out(scheduler: Scheduler) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while (step := scheduler.plan()) is not None:
        deliveries.extend(scheduler.commit(step, answers(step)))
    return deliveries


def is_open(scheduler: Scheduler, owner: str) -> bool:
    try:
        scheduler.check_open(owner)
    except Overloaded:
        return False
    return True


def assert_all_free(scheduler: Scheduler) -> None:
    """Every lane can be taken again, each once; the short ones too."""
    assert (scheduler.num_busy, scheduler.num_queued) == (0, 0)
    bounds = scheduler.bounds
    num_lanes = bounds.max_lanes + bounds.max_short_lanes
    jobs = []
    for number in range(num_lanes):  # each owner far from his limits
        if scheduler.num_queued == bounds.max_queued_turns:
            break
        jobs.append(scheduler.submit(turn(1, owner=f"fresh {number}")))
    step = scheduler.plan()
    assert step is not None
    assert sorted(job.lane for job in step.admitted if job.lane is not None) == list(range(len(jobs)))
    assert len({job.lane for job in jobs}) == len(jobs)
    for job in jobs:
        scheduler.cancel(job)
    assert scheduler.plan() is None


def test_nothing_to_do_is_no_step() -> None:
    """Without jobs there is no step."""
    assert Scheduler(make_bounds()).plan() is None


def test_lanes_are_given_in_order_of_arrival() -> None:
    """The first jobs get the lanes; the next one follows as soon as a lane is free."""
    scheduler = Scheduler(make_bounds(max_lanes=2))
    first, second, third = (scheduler.submit(turn(1, generate(n))) for n in (1, 3, 1))
    step, _ = run_step(scheduler)
    assert [work.job for work in step.works] == [first, second]
    step, deliveries = run_step(scheduler)
    assert [job for job, event in deliveries if isinstance(event, Ended)] == [first]
    step, _ = run_step(scheduler)
    assert third in [work.job for work in step.works]
    assert step.admitted == (third,)


def test_lanes_in_a_step_are_distinct() -> None:
    """No two works of a step share a lane."""
    scheduler = Scheduler(make_bounds(max_lanes=5))
    for number in range(9):
        scheduler.submit(turn(number % 3, generate(number)))
    while (step := scheduler.plan()) is not None:
        lanes = [work.lane for work in step.works]
        assert len(set(lanes)) == len(lanes) <= 5
        scheduler.commit(step, answers(step))


def test_a_prompt_is_fed_in_order_in_bounded_chunks() -> None:
    """The chunks of a prompt are at most the bound long and together are the prompt; only the last asks."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=4))
    scheduler.submit(turn(10))
    works: list[Work] = []
    while (step := scheduler.plan()) is not None:
        works.extend(step.works)
        scheduler.commit(step, answers(step))
    assert [work.ids for work in works] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert [work.ask for work in works] == [Ask.NOTHING, Ask.NOTHING, Ask.CANDIDATES]
    assert [work.is_last for work in works] == [False, False, True]


def test_prompts_share_a_budget_and_nobody_starves() -> None:
    """Prompts alone divide the budget of a step evenly, within the bound of a chunk; every lane moves in every step."""
    bounds = make_bounds(max_lanes=6, max_chunk_tokens=8, max_prompt_tokens_per_step=15)
    scheduler = Scheduler(bounds)
    for _ in range(6):
        scheduler.submit(turn(20))
    while (step := scheduler.plan()) is not None:
        assert all(work.ids for work in step.works)
        assert sum(len(work.ids) for work in step.works) <= bounds.max_prompt_tokens_per_step
        scheduler.commit(step, answers(step))


def test_a_lone_prompt_is_not_held_back() -> None:
    """What others leave of the budget is the last one's, up to the bound of a chunk."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=8, max_prompt_tokens_per_step=10))
    scheduler.submit(turn(6))
    scheduler.submit(turn(30))
    sizes = []
    while (step := scheduler.plan()) is not None:
        sizes.append([len(work.ids) for work in step.works])
        scheduler.commit(step, answers(step))
    assert sizes[0] == [5, 5]
    assert sizes[-3:] == [[8], [8], [1]]


def test_a_long_prompt_does_not_keep_the_others() -> None:
    """While another lane waits for its next token, prompts share a smaller budget, and the others move every step."""
    scheduler = Scheduler(make_bounds(max_prompt_tokens_per_step=100))
    scheduler.submit(turn(1, generate(12)))
    run_step(scheduler)
    for _ in range(2):
        scheduler.submit(turn(120))
    for _ in range(11):
        step, deliveries = run_step(scheduler)
        assert [type(event) for _, event in deliveries] == [Generated]
        assert [len(work.ids) for work in step.works] == [1, 8, 8]
        assert [work.is_chunk for work in step.works] == [False, True, True]
    run_step(scheduler)  # the generation's last token
    step, _ = run_step(scheduler)
    assert [len(work.ids) for work in step.works] == [24, 24]


def test_prompts_beside_a_stream_get_what_the_steps_took() -> None:
    """Ten prompts of 2,000 tokens beside one stream are fed in 400 steps, not in 2,000, when a token of each costs a
    quarter of what the stream's own step does, and no step is two and a half times as long as that."""
    scheduler = Scheduler(make_bounds())
    scheduler.submit(turn(1, generate(10_000)))
    for _ in range(10):
        scheduler.submit(turn(2000, generate(0)))
    num_steps, ended = 0, 0
    while ended < 10:
        step = scheduler.plan()
        assert step is not None
        chunk = max(len(work.ids) for work in step.works)
        prompt_seconds = 0.25 * chunk if step.num_prompts else 0.0
        assert 1 + prompt_seconds < 2.5
        for _, event in scheduler.commit(step, answers(step), StepSeconds(prompt_seconds, 0, 1.0)):
            ended += isinstance(event, Ended)
        num_steps += 1
    assert 400 <= num_steps < 410


def test_prompts_that_are_rated_get_what_that_leaves() -> None:
    """Ratings cost time as well: chunks of Score turns are shorter beside a stream than those of others."""
    scheduler = Scheduler(make_bounds())
    scheduler.submit(turn(1, generate(10_000)))
    sizes = []
    for goal in (Score(), Predict(1)):
        job = scheduler.submit(turn(500, goal))
        for _ in range(6):
            step = scheduler.plan()
            assert step is not None
            chunk = len(step.works[-1].ids) * step.num_prompts
            rated = 0.25 * chunk if goal == Score() else 0.0
            scheduler.commit(step, answers(step), StepSeconds(0.125 * chunk, rated, 1.0))
        sizes.append(chunk)
        scheduler.cancel(job)
    assert sizes == [3, 11]


def test_the_longest_chunk_is_what_a_step_costs() -> None:
    """A prompt whose rest is short does not make the others' tokens look dear: all are padded to the longest."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=20))
    scheduler.submit(turn(30))
    scheduler.submit(turn(5))
    scheduler.submit(turn(1))
    step = scheduler.plan()
    assert step is not None
    assert _shape(step) == StepShape(num_answered=2, num_prompts=2, chunk=8)


def test_a_generation_that_is_kept_consumes_its_last_token() -> None:
    """A kept turn ends after a step that feeds the last choice; an unkept one ends with the choice."""
    for keeps_state, num_steps in ((True, 4), (False, 3)):
        scheduler = Scheduler(make_bounds())
        scheduler.submit(turn(2, generate(3), keeps_state=keeps_state))
        steps = 0
        deliveries = []
        while (step := scheduler.plan()) is not None:
            steps += 1
            deliveries.extend(scheduler.commit(step, answers(step)))
        assert steps == num_steps
        assert [type(event) for _, event in deliveries] == [Generated] * 3 + [Ended]
        ended = deliveries[-1][1]
        assert isinstance(ended, Ended)
        assert ended.reason is FinishReason.LENGTH
        assert ended.snapshot is (AFTER if keeps_state else START)


@pytest.mark.parametrize(("num_ids", "kinds"), [(3, [Scored, Scored, Ended]), (0, [Ended])])
def test_scores_end_with_the_input(num_ids: int, kinds: list[type]) -> None:
    """A Score gives its ratings chunk by chunk; of nothing there are none."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=2))
    scheduler.submit(turn(num_ids, Score()))
    deliveries = run_out(scheduler)
    assert [type(event) for _, event in deliveries] == kinds
    assert_all_free(scheduler)


def test_a_predict_without_input_is_one_step() -> None:
    """Asking again consumes nothing and is answered at once."""
    scheduler = Scheduler(make_bounds())
    scheduler.submit(turn(0))
    step, deliveries = run_step(scheduler)
    assert step.num_tokens == 0
    assert [type(event) for _, event in deliveries] == [Predicted, Ended]


def test_the_positions_and_recent_ids_of_a_job_count_what_it_consumed() -> None:
    """Fed and generated tokens both count, once, and the window keeps the newest."""
    scheduler = Scheduler(make_bounds(penalty_window=3))
    job = scheduler.submit(turn(5, generate(2)))
    run_out(scheduler)
    assert job.position == 7
    assert list(job.recent_ids) == [4, 7, 7]


def test_an_error_ends_its_job_alone() -> None:
    """The job whose outcome is an error leaves with it; the other one goes on."""
    scheduler = Scheduler(make_bounds(max_lanes=2))
    bad, good = scheduler.submit(turn(1, generate(2))), scheduler.submit(turn(1, generate(2)))
    step = scheduler.plan()
    assert step is not None
    deliveries = scheduler.commit(step, [Outcome(error=ModelFailed("no")), Outcome(token_id=1)])
    assert [(job, type(event)) for job, event in deliveries] == [(bad, ModelFailed), (good, Generated)]
    assert {job for job, _ in run_out(scheduler)} == {good}
    assert_all_free(scheduler)


def test_a_queued_job_that_is_cancelled_never_runs() -> None:
    """It leaves the queue at once, and makes room in it."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=2))
    first, second = scheduler.submit(turn(1)), scheduler.submit(turn(1))
    scheduler.cancel(second)
    assert scheduler.num_queued == 1
    scheduler.submit(turn(1))
    assert second not in {job for job, _ in run_out(scheduler)}
    assert first.lane is None
    assert_all_free(scheduler)


def test_a_job_cancelled_between_plan_and_commit_frees_its_lane_at_commit() -> None:
    """Its outcome is dropped, nothing is delivered, the lane is free once; also when its outcome is an error."""
    for outcome in (Outcome(token_id=1), Outcome(error=ModelFailed("no"))):
        scheduler = Scheduler(make_bounds(max_lanes=2))
        job = scheduler.submit(turn(1, generate(5)))
        step = scheduler.plan()
        assert step is not None
        scheduler.cancel(job)
        assert scheduler.num_busy == 1
        assert scheduler.commit(step, [outcome]) == []
        assert_all_free(scheduler)


def test_a_job_cancelled_between_steps_frees_its_lane_at_the_next_plan() -> None:
    """The next plan has no work of it, and hands its lane to who waits."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_short_lanes=0))
    job, waiting = scheduler.submit(turn(1, generate(5))), scheduler.submit(turn(1))
    run_step(scheduler)
    scheduler.cancel(job)
    step = scheduler.plan()
    assert step is not None
    assert [work.job for work in step.works] == [waiting]
    scheduler.commit(step, answers(step))
    assert_all_free(scheduler)


def test_cancelling_again_or_after_the_end_changes_nothing() -> None:
    """Cancel is idempotent at every point, so no lane is freed twice."""
    scheduler = Scheduler(make_bounds(max_lanes=3))
    queued, ended = scheduler.submit(turn(1)), scheduler.submit(turn(1))
    scheduler.cancel(queued)
    scheduler.cancel(queued)
    run_out(scheduler)
    scheduler.cancel(ended)
    scheduler.cancel(ended)
    assert_all_free(scheduler)


def test_a_cancelled_job_does_not_disturb_the_next_holder_of_its_lane() -> None:
    """Cancelling a job that ended leaves the job that has its lane now alone."""
    scheduler = Scheduler(make_bounds(max_lanes=1))
    old = scheduler.submit(turn(1))
    run_out(scheduler)
    new = scheduler.submit(turn(1, generate(2)))
    run_step(scheduler)
    scheduler.cancel(old)
    assert [type(event) for job, event in run_out(scheduler) if job is new] == [Generated, Ended]


def test_the_queue_has_a_bound() -> None:
    """The turn beyond it is refused with the bound's name and a hint; check_open says so beforehand."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=2))
    for _ in range(2):
        scheduler.check_open()
        scheduler.submit(turn(1))
    with pytest.raises(Overloaded) as refused:
        scheduler.check_open()
    assert (refused.value.limit, refused.value.retry_seconds > 0) == ("max_queued_turns", True)
    with pytest.raises(Overloaded):
        scheduler.submit(turn(1))
    assert scheduler.num_queued == 2


def test_a_closed_scheduler_refuses_and_finishes() -> None:
    """After close no turn is accepted; those inside run to their end."""
    scheduler = Scheduler(make_bounds())
    job = scheduler.submit(turn(1))
    scheduler.close()
    with pytest.raises(ShuttingDown):
        scheduler.submit(turn(1))
    assert [type(event) for _, event in run_out(scheduler)] == [Predicted, Ended]
    assert job.lane is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_job_ends_once_and_lanes_add_up(seed: int) -> None:
    """Random submits, cancels and failures at random points: one ending each, none after a cancel, no lane lost."""
    dice = random.Random(seed)
    bounds = make_bounds(
        max_lanes=3,
        max_short_lanes=seed % 3,
        max_queued_turns=5,
        max_chunk_tokens=2,
        max_prompt_tokens_per_step=3,
        owner_limits=OwnerLimits(max_lanes=None if seed % 2 else 2),
    )
    scheduler = Scheduler(bounds)
    jobs: list[Job] = []
    cancelled: set[Job] = set()
    endings: list[Job] = []

    def meddle() -> None:
        for _ in range(dice.randrange(3)):
            owner = dice.choice("abc")
            if is_open(scheduler, owner) and len(jobs) < 60:
                goal = dice.choice(list[Goal]((Predict(1), Score(), generate(dice.randrange(4)))))
                keeps_state = dice.random() < 0.5
                jobs.append(scheduler.submit(turn(dice.randrange(5), goal, owner, keeps_state=keeps_state)))
        if jobs and dice.random() < 0.4:
            job = dice.choice(jobs)
            scheduler.cancel(job)
            if job not in endings:
                cancelled.add(job)

    meddle()
    while (step := scheduler.plan()) is not None or len(jobs) < 60:
        meddle()
        if step is None:
            continue
        outcomes = answers(step)
        for outcome in outcomes:
            if dice.random() < 0.1:
                outcome.error = ModelFailed("bad luck")
        for job, event in scheduler.commit(step, outcomes):
            assert job not in cancelled
            assert job not in endings
            if isinstance(event, Ended | ModelFailed | Overloaded):
                endings.append(job)
        assert scheduler.num_busy <= bounds.max_lanes + bounds.max_short_lanes
        assert scheduler.num_queued <= bounds.max_queued_turns
        meddle()
    assert sorted(map(id, [*endings, *cancelled])) == sorted(map(id, jobs))
    assert_all_free(scheduler)
