"""The scheduler gives lanes in order, ends every job once, and lets go of every job that is cancelled."""

import random

import pytest
from tests.bounds import make_bounds
from tests.server.engine.scheduled_turns import (
    AFTER,
    START,
    answers,
    assert_all_free,
    generate,
    is_open,
    run_out,
    run_step,
    turn,
)

from carousel.engine.jobs import Job, Outcome
from carousel.engine.scheduler import Scheduler
from carousel.errors import ModelFailed, Overloaded, ShuttingDown
from carousel.shares import OwnerLimits
from carousel.turns import Ended, FinishReason, Generated, Goal, Predict, Predicted, Score, Scored


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
    """A Score gives its ratings chunk by chunk; without input there are none."""
    scheduler = Scheduler(make_bounds(max_chunk_tokens=2))
    scheduler.submit(turn(num_ids, Score()))
    deliveries = run_out(scheduler)
    assert [type(event) for _, event in deliveries] == kinds
    assert_all_free(scheduler)


def test_a_predict_without_input_is_one_step() -> None:
    """A repeated question consumes nothing and is answered at once."""
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
    """The job leaves the queue at once and makes room in it."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=2))
    first, second = scheduler.submit(turn(1)), scheduler.submit(turn(1))
    scheduler.cancel(second)
    assert scheduler.num_queued == 1
    scheduler.submit(turn(1))
    assert second not in {job for job, _ in run_out(scheduler)}
    assert first.lane is None
    assert_all_free(scheduler)


def test_a_job_cancelled_between_plan_and_commit_frees_its_lane_at_commit() -> None:
    """Its outcome, even an error, is dropped; nothing is delivered, and the lane is free once."""
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
    """The next plan has no work of it and gives its lane to the next in line."""
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
    """The cancel of a job that ended does not touch the job that has its lane now."""
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
    """After the close no turn is accepted; those inside run to their end."""
    scheduler = Scheduler(make_bounds())
    job = scheduler.submit(turn(1))
    scheduler.close()
    with pytest.raises(ShuttingDown):
        scheduler.submit(turn(1))
    assert [type(event) for _, event in run_out(scheduler)] == [Predicted, Ended]
    assert job.lane is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_job_ends_once_and_lanes_add_up(seed: int) -> None:
    """Jobs are submitted, cancelled and fail at random points: each ends once, none after its cancel, and no lane is
    lost."""
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
