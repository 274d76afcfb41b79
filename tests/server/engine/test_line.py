"""Owners share lanes and the line before them fairly; within an owner the order is that of arrival."""

import time

import numpy as np
import pytest
from tests.bounds import make_bounds

from carousel.engine.jobs import Job, Outcome, Step
from carousel.engine.line import Line
from carousel.engine.scheduler import Scheduler
from carousel.errors import CarouselError, Overloaded
from carousel.shares import OwnerLimits
from carousel.turns import Ended, Event, Generate, Goal, Predict, Predicted, Sampling, Snapshot, Turn

START = Snapshot(0, (), np.zeros(1, np.float32))
LONG = Generate(Sampling(seed=0, temperature=0), 10**6)


def generation(num_tokens: int) -> Generate:
    return Generate(Sampling(seed=0, temperature=0), num_tokens)


def turn(owner: str, goal: Goal = LONG, num_ids: int = 1) -> Turn:
    return Turn(START, (5,) * num_ids, goal, owner=owner)


def run_step(scheduler: Scheduler) -> tuple[Step, list[tuple[Job, Event | CarouselError]]]:
    step = scheduler.plan()
    assert step is not None
    return step, scheduler.commit(step, [Outcome(token_id=7, snapshot=START) for _ in step.works])


def owners_of(jobs: tuple[Job, ...]) -> list[str]:
    return [job.turn.owner for job in jobs]


def limit_of(scheduler: Scheduler, owner: str) -> str:
    """What keeps a turn of the owner out; empty if nothing does. The check and the submission agree."""
    limits = []
    for attempt in (lambda: scheduler.check_open(owner), lambda: scheduler.submit(turn(owner))):
        try:
            attempt()
            limits.append("")
        except Overloaded as error:
            limits.append(error.limit)
    assert limits[0] == limits[1]
    return limits[0]


# Lanes


def test_one_owner_is_served_in_order_of_arrival() -> None:
    """With nobody else there is nothing to share, whatever the turns are."""
    scheduler = Scheduler(make_bounds(max_lanes=2))
    goals: list[Goal] = [generation(2), Predict(1), generation(1), Predict(1), generation(3), generation(1)]
    jobs = [scheduler.submit(turn("ann", goal)) for goal in goals]
    order: list[Job] = []
    while (step := scheduler.plan()) is not None:
        order += [job for job in step.admitted if job.lane is not None and job.lane < 2]
        scheduler.commit(step, [Outcome(token_id=7, snapshot=START) for _ in step.works])
    assert order == [job for job in jobs if job in order]
    assert {goals[jobs.index(job)] for job in jobs if job not in order} <= {Predict(1)}


def test_a_free_lane_goes_to_the_owner_with_fewest() -> None:
    """Whoever came first: three owners with many turns get four lanes each of twelve, and one with two gets both."""
    scheduler = Scheduler(make_bounds(max_lanes=14))
    for owner in "aaaaaaaaaaaabbbbbbbbbbbbccccccccccccdd":
        scheduler.submit(turn(owner))
    step, _ = run_step(scheduler)
    assert {owner: owners_of(step.admitted).count(owner) for owner in "abcd"} == {"a": 4, "b": 4, "c": 4, "d": 2}


def test_lanes_that_run_count_for_who_is_next() -> None:
    """An owner with all lanes waits behind another's first turns, although his came before."""
    scheduler = Scheduler(make_bounds(max_lanes=4))
    running = [scheduler.submit(turn("ann")) for _ in range(4)]
    run_step(scheduler)
    for owner in ("ann", "bob", "bob", "bob"):
        scheduler.submit(turn(owner))
    run_step(scheduler)
    admitted = []
    for job in running[:3]:
        scheduler.cancel(job)
        step, _ = run_step(scheduler)
        admitted += owners_of(step.admitted)
    assert admitted == ["bob", "bob", "ann"]


def test_with_one_lane_tokens_are_shared_not_turns() -> None:
    """Of two owners with turns of 1 and of 9 tokens, each gets about half of the tokens."""
    scheduler = Scheduler(make_bounds(max_lanes=1))
    for _ in range(100):
        scheduler.submit(turn("ann", generation(8)))
        scheduler.submit(turn("bob", generation(1)))
    served = {"ann": 0, "bob": 0}
    for _ in range(400):
        step, _ = run_step(scheduler)
        served[step.works[0].job.turn.owner] += 1
    assert abs(served["ann"] - served["bob"]) < 20


def test_nobody_saves_up_a_claim_by_staying_away() -> None:
    """One who comes late shares with one who was alone before: neither pays for, nor profits by, what was then."""
    scheduler = Scheduler(make_bounds(max_lanes=1))
    for _ in range(60):
        scheduler.submit(turn("ann", generation(1)))
    for _ in range(60):
        run_step(scheduler)
    for _ in range(60):
        scheduler.submit(turn("bob", generation(1)))
    order = [owners_of(run_step(scheduler)[0].admitted) for _ in range(40)]
    assert 8 <= sum(owners == ["bob"] for owners in order) <= 12


def test_one_who_always_comes_back_is_not_taken_for_new() -> None:
    """An owner who sends his next long turn when the last is done does not get every other turn for it."""
    scheduler = Scheduler(make_bounds(max_lanes=1))
    for _ in range(200):
        scheduler.submit(turn("bob", generation(1)))
    served = {"ann": 0, "bob": 0}
    scheduler.submit(turn("ann", generation(19)))
    for _ in range(200):
        step, deliveries = run_step(scheduler)
        owner = step.works[0].job.turn.owner
        served[owner] += 1
        if owner == "ann" and any(isinstance(event, Ended) for _, event in deliveries):
            scheduler.submit(turn("ann", generation(19)))
    assert abs(served["ann"] - served["bob"]) <= 44  # two of the long turns


def test_an_owner_runs_no_more_than_he_may() -> None:
    """Lanes stay free rather; they are the others', and his next turn comes when one of his is done."""
    scheduler = Scheduler(make_bounds(max_lanes=5, owner_limits=OwnerLimits(max_lanes=2)))
    jobs = [scheduler.submit(turn("ann", generation(1))) for _ in range(4)]
    scheduler.submit(turn("ann", Predict(1)))
    step, _ = run_step(scheduler)
    assert step.admitted == tuple(jobs[:2])
    scheduler.submit(turn("bob"))
    step, _ = run_step(scheduler)
    assert owners_of(step.admitted) == ["bob"]
    step, _ = run_step(scheduler)
    assert step.admitted == tuple(jobs[2:])


def test_asking_again_is_not_for_nothing() -> None:
    """Turns that feed nothing are counted too: they take turns with those that feed a token."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_short_lanes=0))
    for _ in range(20):
        scheduler.submit(turn("ann", Predict(1), 0))
    for _ in range(20):
        scheduler.submit(turn("bob", Predict(1), 1))
    order = [owners_of(run_step(scheduler)[0].admitted)[0] for _ in range(20)]
    assert order.count("bob") == 10


# Short lanes


@pytest.mark.parametrize("goal", [Predict(1), generation(0)])
def test_a_short_turn_does_not_wait_for_long_ones(goal: Goal) -> None:
    """A Predict among 64 long generations, and behind a hundred more, runs from the next step on, on a lane beyond."""
    scheduler = Scheduler(make_bounds())
    for _ in range(164):
        scheduler.submit(turn("ann"))
    run_step(scheduler)
    job = scheduler.submit(turn("ann", goal, 64))
    num_steps = 0
    while True:
        step, deliveries = run_step(scheduler)
        num_steps += 1
        if any(one is job and isinstance(event, Ended) for one, event in deliveries):
            break
        assert step.works[-1].job is job
        assert step.works[-1].lane == 64
    assert num_steps == 4  # its 64 ids, in chunks of 16 beside the others


def test_short_lanes_are_for_short_turns_alone() -> None:
    """Not for what generates, nor for a prompt of more than a chunk; and only when all other lanes are busy."""
    scheduler = Scheduler(make_bounds(max_lanes=2, max_short_lanes=2, max_chunk_tokens=8))
    scheduler.submit(turn("ann"))
    first = scheduler.submit(turn("ann", Predict(1), 8))
    step, _ = run_step(scheduler)
    assert first in step.admitted
    assert sorted(work.lane for work in step.works) == [0, 1]
    scheduler.submit(turn("ann"))
    run_step(scheduler)
    scheduler.submit(turn("ann", generation(1)))
    scheduler.submit(turn("ann", Predict(1), 9))
    step, _ = run_step(scheduler)
    assert step.admitted == ()
    short = [scheduler.submit(turn("ann", Predict(1), 8)) for _ in range(3)]
    step, _ = run_step(scheduler)
    assert step.admitted == tuple(short[:2])
    assert {work.lane for work in step.works} == {0, 1, 2, 3}


def test_short_lanes_are_shared_between_owners() -> None:
    """Many short turns of one owner do not keep another's, although that one has all the long lanes."""
    scheduler = Scheduler(make_bounds(max_lanes=4, max_short_lanes=2))
    for _ in range(4):
        scheduler.submit(turn("ann"))
    run_step(scheduler)
    for _ in range(20):
        scheduler.submit(turn("bob", Predict(1)))
    job = scheduler.submit(turn("ann", Predict(1)))
    _, deliveries = run_step(scheduler)
    assert (job, Predicted(())) in deliveries


def test_short_lanes_count_into_what_an_owner_may_run() -> None:
    """Of two lanes, one is busy with his generation: one short turn of his runs at a time."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_short_lanes=4, owner_limits=OwnerLimits(max_lanes=2)))
    scheduler.submit(turn("ann"))
    for _ in range(4):
        scheduler.submit(turn("ann", Predict(1)))
    assert [len(run_step(scheduler)[0].works) for _ in range(3)] == [2, 2, 2]
    for _ in range(4):
        scheduler.submit(turn("bob", Predict(1)))
    assert len(run_step(scheduler)[0].works) == 4


# The line


def test_a_full_line_refuses_whoever_has_his_share() -> None:
    """An owner alone has all of it; of two, each half. The refusal names the bound."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=4))
    for _ in range(4):
        assert limit_of(scheduler, "ann") == ""
    assert limit_of(scheduler, "ann") == "max_queued_turns"
    for _ in range(2):
        assert limit_of(scheduler, "bob") == ""
    assert limit_of(scheduler, "bob") == "max_queued_turns"
    assert limit_of(scheduler, "ann") == "max_queued_turns"
    assert limit_of(scheduler, "carl") == ""
    assert scheduler.num_queued == 4


def test_the_newest_turn_of_the_one_with_most_makes_room() -> None:
    """He is told once, with the bound's name; nothing of it was run, and his older turns stay."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_short_lanes=0, max_queued_turns=4))
    running = scheduler.submit(turn("ann"))
    run_step(scheduler)
    jobs = [scheduler.submit(turn("ann", goal)) for goal in (LONG, Predict(1), LONG)]
    other = scheduler.submit(turn("bob"))
    newcomer = scheduler.submit(turn("carl"))
    step, deliveries = run_step(scheduler)
    [(loser, error)] = [(job, event) for job, event in deliveries if job is not running]
    assert loser is jobs[2]
    assert isinstance(error, Overloaded)
    assert (error.limit, error.retry_seconds > 0) == ("max_queued_turns", True)
    scheduler.cancel(running)
    order: list[Job] = []
    while scheduler.num_queued:
        step, deliveries = run_step(scheduler)
        assert loser not in [job for job, _ in deliveries]
        order += step.admitted
        scheduler.cancel(step.works[0].job)
    assert sorted(order, key=lambda job: job.number) == [*jobs[:2], other, newcomer]


def test_a_turn_that_is_cancelled_after_it_was_pushed_out_is_told_nothing() -> None:
    """Nobody listens any more."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=2))
    scheduler.submit(turn("ann"))
    run_step(scheduler)
    jobs = [scheduler.submit(turn("ann")) for _ in range(2)]
    scheduler.submit(turn("bob"))
    scheduler.cancel(jobs[1])
    _, deliveries = run_step(scheduler)
    assert jobs[1] not in [job for job, _ in deliveries]


def test_an_owner_has_a_bound_of_his_own() -> None:
    """It is named for what it is, and others are let in."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=4, owner_limits=OwnerLimits(max_queued_turns=2)))
    for _ in range(2):
        assert limit_of(scheduler, "ann") == ""
    assert limit_of(scheduler, "ann") == "max_queued_turns_per_owner"
    assert limit_of(scheduler, "bob") == ""


def test_more_owners_than_places_do_not_push_each_other_out() -> None:
    """Where nobody can have a whole turn as his share, who came first stays."""
    scheduler = Scheduler(make_bounds(max_lanes=1, max_queued_turns=3))
    assert [limit_of(scheduler, owner) for owner in "abcd"] == ["", "", "", "max_queued_turns"]


def test_many_owners_leave_nothing_behind() -> None:
    """10,000 owners who came, ran more than others and went are not remembered."""
    line = Line(10, OwnerLimits())
    keeper = Job(turn("keeper"), 0)
    line.add(keeper)
    assert line.admit(1) == [keeper]
    for number in range(10_000):
        job = Job(turn(f"owner {number}"), 0, number)
        line.add(job)
        assert line.admit(1) == [job]
        job.position = 10_000 - number
        line.left(job, False)
    assert len(line._owners) <= 1025
    line.left(keeper, False)
    line.add(keeper)
    assert line.admit(1) == [keeper]


def test_leaving_a_long_line_takes_no_walk_along_it() -> None:
    """20,000 turns are cancelled, from the back, the front and the middle, in less than a second."""
    scheduler = Scheduler(make_bounds(max_queued_turns=20_000))
    jobs = [scheduler.submit(turn("ann" if number % 2 else "bob")) for number in range(20_000)]
    started = time.thread_time()
    for job in (*jobs[::-2], *jobs[::2]):
        scheduler.cancel(job)
    assert time.thread_time() - started < 1
    assert scheduler.num_queued == 0
    assert scheduler.plan() is None
