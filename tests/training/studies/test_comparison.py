"""Cells on equal terms."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel
from carousel_training.settings import Settings
from carousel_training.studies.cached_runs import CachedRuns, RunResult, StudyInterrupted
from carousel_training.studies.comparison import CellResult, ComparisonPlan, compare, ranked, rate_grid
from carousel_training.studies.comparison_report import comparison_table, draw_comparison

VOCABULARY_SIZE = 33  # of the verse that the tiny settings read
NUM_PARAMETERS = 6000


def make_plan(settings: Settings, cells: tuple[str, ...]) -> ComparisonPlan:
    return ComparisonPlan(settings, cells, NUM_PARAMETERS, 2, (0.01, 1.0), 0.5)


def make_single_plan(settings: Settings) -> ComparisonPlan:
    """One cell, one rate, one seed."""
    return ComparisonPlan(settings, ("elman",), NUM_PARAMETERS, num_seeds=1)


def make_runs(directory: Path, plan: ComparisonPlan, is_interrupted: Callable[[], bool] = lambda: False) -> CachedRuns:
    return CachedRuns(directory, "digest", plan.num_runs, Console(file=io.StringIO()), is_interrupted)


def run_result(nats: float | None) -> RunResult:
    return RunResult(nats, 100, 2.0, 1000, 64)


def cell_result(cell: str, *nats: float | None) -> CellResult:
    return CellResult(cell, 8, 1e-3, {}, tuple(run_result(value) for value in nats), {1: 10.0, 64: 99.0})


def test_every_cell_has_the_same_terms(tmp_path: Path, study_settings: Settings) -> None:
    """Parameters within 2 %, the same tokens, the same number of rates tried, as many seeds, each with its own loss."""
    plan = make_plan(study_settings, ("elman", "tdnn"))
    results = compare(plan, make_runs(tmp_path, plan), VOCABULARY_SIZE, None)
    assert [result.cell for result in results] == ["elman", "tdnn"]
    for result in results:
        assert len(result.tried) == 2
        assert len({run.nats for run in result.runs}) == 2
        assert {run.tokens for run in result.runs} == {8 * 4 * 16}
        assert all(run.num_parameters == pytest.approx(NUM_PARAMETERS, rel=0.02) for run in result.runs)


def test_the_better_rate_is_taken(tmp_path: Path, study_settings: Settings) -> None:
    """A hundredth of the cell's own rate learns nothing in four steps, so the own rate wins."""
    plan = make_plan(study_settings, ("gru",))
    (result,) = compare(plan, make_runs(tmp_path, plan), VOCABULARY_SIZE, None)
    assert result.learning_rate == CELLS["gru"].learning_rate
    assert result.tried[result.learning_rate] == min(nats for nats in result.tried.values() if nats is not None)


def test_an_interrupted_comparison_goes_on(tmp_path: Path, study_settings: Settings) -> None:
    """Stopped in its fourth run and started again, it keeps the three that were done, to the microsecond."""
    plan = make_plan(study_settings, ("elman",))
    steps = iter(range(1000))
    with pytest.raises(StudyInterrupted):
        compare(plan, make_runs(tmp_path, plan, lambda: next(steps) >= 2 * 4 + 8 + 3), VOCABULARY_SIZE, None)
    kept = {path: path.read_bytes() for path in tmp_path.glob("*/result.json")}
    assert len(kept) == 3
    (result,) = compare(plan, make_runs(tmp_path, plan), VOCABULARY_SIZE, None)
    assert len(result.runs) == 2
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_serving_speed_is_what_the_given_function_says(tmp_path: Path, study_settings: Settings) -> None:
    """It is asked for the trained model of the first seed."""
    asked: list[str] = []

    def speed(trained: TrainedModel) -> dict[int, float]:
        asked.append(trained.model.config.cell)
        return {1: 5.0}

    plan = make_single_plan(study_settings)
    (result,) = compare(plan, make_runs(tmp_path, plan), VOCABULARY_SIZE, speed)
    assert asked == ["elman"]
    assert result.serving == {1: 5.0}


def test_a_cell_that_cannot_be_served_says_why(tmp_path: Path, study_settings: Settings) -> None:
    """The comparison ends with everything else."""

    def fail(trained: TrainedModel) -> dict[int, float]:
        raise KeyError(trained.model.config.cell)

    plan = make_single_plan(study_settings)
    (result,) = compare(plan, make_runs(tmp_path, plan), VOCABULARY_SIZE, fail)
    assert result.serving == "not measured: KeyError: 'elman'"
    assert all(run.nats is not None for run in result.runs)


def test_the_grid_is_even_around_one() -> None:
    """Every cell tries its own rate where the grid is odd, and steps of half a decade around it."""
    assert rate_grid(1) == (1.0,)
    assert rate_grid(3) == (0.316, 1.0, 3.16)
    assert len(rate_grid(4)) == 4


def test_diverged_cells_come_last() -> None:
    """A mean over the runs that survived does not count."""
    results = [cell_result("a", 1.0, None), cell_result("b", 3.0, 3.0), cell_result("c", 2.0, 2.5)]
    assert [result.cell for result in ranked(results)] == ["c", "b", "a"]


def test_the_table_and_the_picture_show_every_cell(tmp_path: Path) -> None:
    """Best first with mean and spread; a diverged cell is said to be one."""
    results = [cell_result("worse", 3.0, 3.2), cell_result("better", 1.0, 2.0), cell_result("lost", None, 1.0)]
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_table(results))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("better") < text.index("worse") < text.index("lost")
    assert "1.5000 ± 0.7071" in text
    assert "diverged" in text
    draw_comparison(results, "a title", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
