"""What the tests of the scheduler share: turns, their answers, and steps that are run without a model."""

import numpy as np

from carousel.engine.jobs import Outcome, Step
from carousel.engine.scheduler import Delivery, Scheduler
from carousel.errors import Overloaded
from carousel.turns import Generate, Goal, Predict, Sampling, Snapshot, Turn

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
    """Checks that every lane can be taken again, each once, even the short ones."""
    assert (scheduler.num_busy, scheduler.num_queued) == (0, 0)
    bounds = scheduler.bounds
    num_lanes = bounds.max_lanes + bounds.max_short_lanes
    jobs = []
    for number in range(num_lanes):  # no owner is near his limits
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
