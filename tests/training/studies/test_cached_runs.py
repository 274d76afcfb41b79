"""Runs that are done once."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from carousel_training.checkpoint import load_model
from carousel_training.settings import Settings
from carousel_training.studies.cached_runs import CachedRuns, StudyInterrupted


def make_runs(directory: Path, digest: str = "d", is_interrupted: Callable[[], bool] = lambda: False) -> CachedRuns:
    return CachedRuns(directory, digest, 2, Console(file=io.StringIO()), is_interrupted)


def with_rate(settings: Settings, rate: float) -> Settings:
    return settings.model_copy(
        update={"optimizer": settings.optimizer.model_copy(update={"learning_rate": rate, "clip_norm": 1e30})}
    )


def test_a_result_is_that_of_the_whole_budget(tmp_path: Path, study_settings: Settings) -> None:
    """Tokens are the budget's, the loss is a number, and the weights are there for whoever wants them."""
    result = make_runs(tmp_path).result("a", study_settings, keeps_weights=True)
    assert result.tokens == 8 * 4 * 16
    assert result.nats is not None
    assert 0.0 < result.nats < 10.0
    assert result.num_parameters == load_model(tmp_path / "a").model.num_parameters
    assert result.state_bytes == 2 * 8 * 4


def test_a_known_result_is_not_made_again(tmp_path: Path, study_settings: Settings) -> None:
    """The second study finds the figures of the first, the clock's among them, and writes nothing."""
    first = make_runs(tmp_path).result("a", study_settings, keeps_weights=True)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert make_runs(tmp_path).result("a", study_settings, keeps_weights=True) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == written


def test_other_settings_or_another_text_are_run_anew(tmp_path: Path, study_settings: Settings) -> None:
    """A result under the same name counts only for what it was made from."""
    first = make_runs(tmp_path).result("a", study_settings, keeps_weights=False)
    longer = study_settings.model_copy(update={"budget": study_settings.budget.model_copy(update={"max_steps": 9})})
    assert make_runs(tmp_path).result("a", longer, keeps_weights=False).tokens > first.tokens
    before = (tmp_path / "a" / "log.jsonl").stat().st_mtime_ns
    make_runs(tmp_path, "other").result("a", longer, keeps_weights=False)
    assert (tmp_path / "a" / "log.jsonl").stat().st_mtime_ns > before


def test_weights_go_where_nobody_wants_them(tmp_path: Path, study_settings: Settings) -> None:
    """The result and the log stay."""
    make_runs(tmp_path).result("a", study_settings, keeps_weights=False)
    assert not list((tmp_path / "a").glob("*.safetensors"))
    assert (tmp_path / "a" / "result.json").exists()
    assert (tmp_path / "a" / "log.jsonl").exists()


def test_a_diverged_run_is_a_result(tmp_path: Path, study_settings: Settings) -> None:
    """A rate that loses the loss is recorded without one, and not tried again."""
    wild = with_rate(study_settings, 1e30)
    result = make_runs(tmp_path).result("a", wild, keeps_weights=True)
    assert result.nats is None
    assert result.tokens_per_second is None
    assert make_runs(tmp_path).result("a", wild, keeps_weights=True) == result


def test_an_interrupted_run_is_no_result(tmp_path: Path, study_settings: Settings) -> None:
    """It raises, and the next study runs it from the start."""
    with pytest.raises(StudyInterrupted, match="the same command goes on"):
        make_runs(tmp_path, is_interrupted=lambda: True).result("a", study_settings, keeps_weights=True)
    assert not (tmp_path / "a" / "result.json").exists()
    assert make_runs(tmp_path).result("a", study_settings, keeps_weights=True).tokens == 8 * 4 * 16
