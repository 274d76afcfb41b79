"""A cell's course: its own draws, full schedules at every rung, then finals of what the search chose."""

import pytest
from tests.training.studies.comparison.conftest import TINY_PLAN

from carousel_training.settings import Settings
from carousel_training.studies.comparison.courses import SEARCH_SEEDS, Course, Find
from carousel_training.studies.comparison.entries import TWIN_SEEDS, USUAL, Entry, contestants, make_entries
from carousel_training.studies.comparison.jobs import Job, JobResult, MarkResult, Reading
from carousel_training.studies.sizing import TOLERANCE, count_parameters

UNIT = 10


@pytest.fixture
def entry(comparison_settings: Settings) -> Entry:
    return Entry("lstm", comparison_settings)


def result_of(job: Job, nats: float | None) -> JobResult:
    if nats is None:
        return JobResult((), 1.0)
    reading = Reading(nats, (nats,), (nats,))
    return JobResult(tuple(MarkResult(step, step, 1.0, reading, reading) for step in job.schedule.marks), 1.0)


def known_results(known: dict[str, JobResult]) -> Find:
    return lambda job: known.get(job.name)


def test_entries_have_the_same_parameters_and_one_twin(comparison_settings: Settings) -> None:
    """The twin is the LSTM, or the first cell without an LSTM, with its own name and seeds."""
    entries = make_entries(("elman", "lstm"), comparison_settings, 12_000, 30, has_twin=True)
    assert [entry.name for entry in entries] == ["elman", "lstm", "lstm-again"]
    assert [entry.first_seed for entry in entries] == [0, 0, TWIN_SEEDS]
    for entry in entries:
        model = entry.settings.model
        assert count_parameters(model, 30, model.hidden_size) == pytest.approx(12_000, rel=TOLERANCE)
    assert make_entries(("elman",), comparison_settings, 12_000, 30, has_twin=True)[1].cell == "elman"
    assert len(make_entries(("elman",), comparison_settings, 12_000, 30, has_twin=False)) == 1


def test_a_contestant_may_stand_in_residual_blocks(comparison_settings: Settings) -> None:
    """A cell in residual blocks has as many parameters and its own name. Two cells cannot be in blocks."""
    plain, residual = make_entries(("mingru", "mingru+residual"), comparison_settings, 12_000, 30, has_twin=False)
    assert (plain.contestant, residual.contestant) == (plain.name, residual.name) == ("mingru", "mingru+residual")
    assert (residual.cell, residual.settings.model.block) == ("mingru", "residual")
    assert residual.settings.model.hidden_size < plain.settings.model.hidden_size
    assert count_parameters(residual.settings.model, 30, residual.settings.model.hidden_size) == pytest.approx(
        12_000, rel=TOLERANCE
    )
    assert set(USUAL) <= set(contestants())
    assert "tdnn+residual" not in contestants()


def test_jobs_carry_what_a_trial_says(entry: Entry) -> None:
    """A job has the trial's rate, dropout, clip, shift and warm-up. Seeds of searches and finals differ."""
    course = Course.of(entry, TINY_PLAN, UNIT)
    search, final = course.search_job(1, 1), course.final_job(1, 0)
    trial = course.trials[1]
    for job in (search, final):
        assert job.settings.optimizer.learning_rate == trial.learning_rate
        assert job.settings.optimizer.clip_norm == trial.clip_norm
        assert job.settings.model.dropout == trial.dropout
        assert job.gate_shift == trial.gate_shift
        assert job.schedule.warmup == max(1, round(trial.warmup_share * 5))
    assert (search.schedule.marks, final.schedule.marks) == ((10,), (10, 20))
    assert (search.settings.seed, final.settings.seed) == (SEARCH_SEEDS + 1, 0)
    assert (search.reads_test, final.reads_test) == (False, True)


def test_a_twin_has_draws_and_seeds_of_its_own(entry: Entry) -> None:
    """A twin shares only the cell."""
    twin = Entry("lstm-again", entry.settings, is_twin=True)
    one, other = Course.of(entry, TINY_PLAN, UNIT), Course.of(twin, TINY_PLAN, UNIT)
    assert one.trials != other.trials
    assert one.final_job(0, 0).settings.seed != other.final_job(0, 0).settings.seed
    assert one.search_job(0, 0).settings.seed != other.search_job(0, 0).settings.seed


def test_a_course_goes_from_rung_to_rung_to_the_final(entry: Entry) -> None:
    """A course runs two trials, the better one for longer, then two seeds of it, then nothing."""
    course, known = Course.of(entry, TINY_PLAN, UNIT), dict[str, JobResult]()
    find = known_results(known)
    losses = {"lstm/rung-0-trial-00": 3.0, "lstm/rung-0-trial-01": 2.0}
    seen = []
    while jobs := course.open_jobs(find):
        seen.append([job.name for job in jobs])
        known.update({job.name: result_of(job, losses.get(job.name, 1.0)) for job in jobs})
    assert seen == [
        ["lstm/rung-0-trial-00", "lstm/rung-0-trial-01"],
        ["lstm/rung-1-trial-01"],
        ["lstm/seed-0", "lstm/seed-1"],
    ]


def test_a_search_that_diverges_still_ends(entry: Entry) -> None:
    """A search without a finite loss chooses the first trial, whose finals then diverge too."""
    course, known = Course.of(entry, TINY_PLAN, UNIT), dict[str, JobResult]()
    find = known_results(known)
    while jobs := course.open_jobs(find):
        known.update({job.name: result_of(job, None) for job in jobs})
    assert course.rungs(find) == [{0: None, 1: None}, {0: None}]


def test_one_trial_is_the_settings_as_they_are(entry: Entry) -> None:
    """With one trial there is no search."""
    course = Course.of(entry, TINY_PLAN.with_options(None, None, 1), UNIT)
    jobs = course.open_jobs(lambda job: None)
    assert [job.name for job in jobs] == ["lstm/seed-0", "lstm/seed-1"]
    assert jobs[0].settings.model.dropout == entry.settings.model.dropout
    assert jobs[0].gate_shift == 0.0
