"""A plan's unit follows from measured speeds and its hours, and its estimate counts everything that will be done."""

import pytest
from tests.training.studies.comparison.conftest import TINY_PLAN

from carousel_training.studies.comparison.plans import (
    DEFAULT_PLAN,
    PLANS,
    SETTLING,
    Speeds,
    StudyPlan,
    estimate_seconds,
    unit_for_hours,
    unit_for_tokens,
)

FAST = Speeds(training=50_000.0, reading=100_000.0, setup=0.5, core_share=1.0)


def test_the_estimate_counts_trainings_cooldowns_and_readings() -> None:
    """By hand: a unit of 10 steps of 32 tokens, 2 trials of 5 steps and 1 of 10, 2 finals of 10 and 20 with a cooldown
    of 2 steps thrown away; 3 readings of validation, 2 x 2 of both parts."""
    speed = Speeds(training=100.0, reading=1000.0, setup=0.25, core_share=1.0)
    steps, readings = 2 * 5 + 10 + 2 * 22, 3 * 100 + 4 * 220
    expected = SETTLING * (5 * 0.25 + steps * 32 / 100.0 + readings / 1000.0)
    assert estimate_seconds(TINY_PLAN, [speed], 1, 32, 10) == pytest.approx(expected)
    assert estimate_seconds(TINY_PLAN, [speed, speed], 2, 32, 10) == pytest.approx(expected)


def test_the_unit_fills_the_hour() -> None:
    """The unit fits the hour and the next larger one does not. Slower cells get a shorter unit."""
    hour = PLANS["hour"]
    speeds = [FAST] * 14
    unit = unit_for_hours(hour, speeds, 2, 512)
    assert estimate_seconds(hour, speeds, 2, 512, unit) < 3600.0 <= estimate_seconds(hour, speeds, 2, 512, unit + 1)
    assert unit_for_hours(hour, [*speeds, Speeds(5_000.0, 10_000.0, 0.5, 1.0)], 2, 512) < unit
    assert unit_for_hours(PLANS["night"], speeds, 2, 512) > unit
    assert unit_for_hours(hour, [Speeds(0.01, 1.0, 1.0, 1.0)], 2, 512) == 1


def test_tokens_are_those_of_the_last_mark() -> None:
    """A unit has whole steps, at least one."""
    assert unit_for_tokens(8 * 512 * 7, PLANS["hour"], 512) == 7
    assert unit_for_tokens(1, PLANS["hour"], 512) == 1
    assert DEFAULT_PLAN.mark_steps(unit_for_tokens(300_000, DEFAULT_PLAN, 512))[-1] * 512 == pytest.approx(
        300_000, rel=0.02
    )


def test_options_stand_in_place_of_a_plan_s_own() -> None:
    """Tokens replace hours, and options that are not given change nothing."""
    plan = PLANS["hour"].with_options(tokens=9, seeds=3, trials=5)
    assert (plan.hours, plan.tokens, plan.num_seeds, plan.num_trials) == (None, 9, 3, 5)
    assert PLANS["hour"].with_options(None, None, None) == PLANS["hour"]


@pytest.mark.parametrize("plan", [*PLANS.values(), DEFAULT_PLAN])
def test_every_plan_searches_on_less_than_the_final(plan: StudyPlan) -> None:
    """And counts its trainings: 16 + 8 + 4 + 5 of a cell in an hour."""
    assert max(plan.rungs) < plan.marks[-1]
    assert PLANS["hour"].num_jobs(2) == 2 * 33
    assert DEFAULT_PLAN.with_options(None, None, 1).num_jobs(2) == 2 * 2
