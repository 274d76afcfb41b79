"""A result is found only under the key that it was saved with."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.studies.comparison.conftest import TINY_READING

from carousel_training.settings import Settings
from carousel_training.studies.comparison.job_store import JobStore
from carousel_training.studies.comparison.jobs import Job, JobResult, MarkResult, Reading, Schedule

RESULT = JobResult((MarkResult(4, 128, 0.5, Reading(1.5, (1.5,), (3.0,)), None),), 0.75)


@pytest.fixture
def job(comparison_settings: Settings) -> Job:
    return Job("lstm/seed-0", comparison_settings, 0.0, Schedule(1, (4,)), TINY_READING, reads_test=False)


def test_what_was_saved_is_found(tmp_path: Path, job: Job) -> None:
    """Another store finds a result, and no other file lies beside it."""
    JobStore(tmp_path, "text").save(job, RESULT)
    assert JobStore(tmp_path, "text").find(job) == RESULT
    assert [path.name for path in tmp_path.glob("lstm/*")] == ["seed-0.json"]


def test_another_job_or_text_is_not(tmp_path: Path, job: Job) -> None:
    """A job with the same name and another key has no result."""
    JobStore(tmp_path, "text").save(job, RESULT)
    assert JobStore(tmp_path, "other text").find(job) is None
    assert JobStore(tmp_path, "text").find(replace(job, gate_shift=0.5)) is None
    assert JobStore(tmp_path, "text").find(replace(job, name="lstm/seed-1")) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}', '{"key": "KEY", "result": {}}'])
def test_a_damaged_file_is_no_result(tmp_path: Path, job: Job, content: str) -> None:
    """A damaged file counts as no result."""
    store = JobStore(tmp_path, "text")
    store.save(job, RESULT)
    (tmp_path / "lstm" / "seed-0.json").write_text(content.replace("KEY", job.key("text")))
    assert store.find(job) is None
