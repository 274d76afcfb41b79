"""A job's key changes with everything that decides its result, and its schedule is complete for every mark."""

from dataclasses import replace
from typing import Any

import pytest

from carousel_training.settings import Settings
from carousel_training.studies.comparison.jobs import (
    Job,
    JobResult,
    MarkResult,
    Reading,
    ReadingPlan,
    Schedule,
    code_digest,
)

PLAN = ReadingPlan(2, 10, 10, 5)


def make_job(settings: Settings) -> Job:
    return Job("lstm/seed-0", settings, 0.5, Schedule(3, (10, 20)), PLAN, reads_test=True)


def test_a_mark_s_rate_rises_stays_and_falls() -> None:
    """The factor rises linearly in the warm-up, stays at 1, then falls as 1 - sqrt over the last fifth, nearly to 0."""
    schedule = Schedule(4, (20, 40))
    factors = [schedule.factor(step, 20) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:16] == [1.0] * 12
    assert factors[16:] == sorted(factors[16:], reverse=True)
    assert factors[16] == pytest.approx(1.0 - (0.5 / 4) ** 0.5)
    assert 0.0 < factors[19] < 0.1


def test_the_rate_is_the_same_for_all_marks_until_one_cools() -> None:
    """Marks share a training, because the constant part is the same: 20 and 40 steps cost 44."""
    schedule = Schedule(4, (20, 40))
    assert [schedule.factor(step, 20) for step in range(16)] == [schedule.factor(step, 40) for step in range(16)]
    assert (schedule.cooldown_start(20), schedule.cooldown_start(40), schedule.num_steps) == (16, 32, 44)
    assert Schedule(1, (1,)).factor(0, 1) > 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"gate_shift": 0.4},
        {"schedule": Schedule(3, (10, 21))},
        {"schedule": Schedule(2, (10, 20))},
        {"reading": replace(PLAN, block=6)},
        {"reads_test": False},
    ],
)
def test_the_key_changes_with_the_job(comparison_settings: Settings, change: dict[str, Any]) -> None:
    """The key changes with every part of a job, and equal jobs have equal keys."""
    job = make_job(comparison_settings)
    assert job.key("text") == make_job(comparison_settings).key("text")
    assert replace(job, **change).key("text") != job.key("text")


def test_the_key_changes_with_settings_text_and_code(
    comparison_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key does not depend on the path of the text or on the budget."""
    job = make_job(comparison_settings)
    key = job.key("text")
    assert job.key("other") != key
    assert replace(job, settings=comparison_settings.model_copy(update={"seed": 1})).key("text") != key
    moved = comparison_settings.model_copy(update={"budget": Settings.parse({"budget": {"max_steps": 9}}).budget})
    assert replace(job, settings=moved).key("text") == key
    monkeypatch.setattr("carousel_training.studies.comparison.jobs.code_digest", lambda: "edited")
    assert job.key("text") != key


def test_the_code_s_digest_is_one_of_files() -> None:
    """The digest has 64 digits and is constant."""
    assert len(code_digest()) == 64
    assert code_digest() == code_digest.__wrapped__()


def test_a_result_survives_its_json() -> None:
    """A result survives JSON, with and without a test part, and without any mark."""
    reading = Reading(1.5, (1.0, 2.0), (7.5, 7.5))
    marks = (MarkResult(10, 320, 0.25, reading, None), MarkResult(20, 640, 0.5, reading, reading))
    for result in (JobResult(marks, 1.0), JobResult((), 1.0)):
        assert JobResult.from_json(result.as_json()) == result
    assert JobResult(marks, 1.0).at(20) == marks[1]
    assert JobResult(marks, 1.0).at(15) is None
