"""A study measures what cells learn to remember."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carousel_training.cells.registry import CELLS
from carousel_training.errors import SettingsError
from carousel_training.studies.recall import RecallNet, RecallPlan, RecallResult, accuracy_at, learn, study_recall
from carousel_training.studies.recall_report import plot_recall, recall_table
from carousel_training.studies.recall_tasks import TASKS

AGREEMENT = TASKS["agreement"]
SHORT = RecallPlan(gaps=(2,), hidden_size=16, num_lanes=32, max_steps=400)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru", "tdnn"])
def test_a_short_gap_is_no_trouble(cell: str) -> None:
    """Every cell solves a gap of two steps, and training then ends."""
    result = learn(AGREEMENT, cell, SHORT)
    assert result.accuracy[2] >= 0.95
    assert result.solved_gap == 2
    assert result.num_steps < SHORT.max_steps


def test_a_window_shorter_than_the_gap_stays_at_chance() -> None:
    """What lies outside the window cannot be known, however long the training is."""
    plan = replace(SHORT, gaps=(2, 8), window=4, max_steps=200)
    result = learn(AGREEMENT, "tdnn", plan)
    assert result.accuracy[2] >= 0.9
    assert abs(result.accuracy[8] - AGREEMENT.chance) < 0.06
    assert result.solved_gap == 2
    assert result.num_steps == plan.max_steps


def test_an_lstm_remembers_where_the_window_cannot() -> None:
    """With the same plan it solves the longer gap."""
    plan = replace(SHORT, gaps=(2, 8, 16), window=4)
    assert learn(AGREEMENT, "lstm", plan).accuracy[16] >= 0.95


def test_patience_ends_a_hopeless_training() -> None:
    """Training ends after the patience without a longer gap."""
    plan = replace(SHORT, gaps=(16,), window=4, patience_steps=50)
    assert learn(AGREEMENT, "tdnn", plan).num_steps == 50


def test_equal_seeds_learn_the_same() -> None:
    """A result is a function of the plan."""
    plan = replace(SHORT, max_steps=30)
    assert learn(TASKS["adding"], "gru", plan) == learn(TASKS["adding"], "gru", plan)


@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize("task", list(TASKS))
def test_every_cell_takes_every_task(cell: str, task: str) -> None:
    """An untrained net of any cell answers, with an accuracy that is a share."""
    torch.manual_seed(1)
    net = RecallNet(cell, TASKS[task], replace(SHORT, hidden_size=8))
    accuracy = accuracy_at(net, TASKS[task], 5, 400, torch.Generator().manual_seed(0))
    assert 0.0 <= accuracy < TASKS[task].chance + 0.25


@pytest.mark.parametrize("gaps", [(), (0, 2), (4, 2), (2, 2)])
def test_gaps_that_do_not_grow_are_refused(gaps: tuple[int, ...]) -> None:
    """Wrong gaps are refused before any training."""
    with pytest.raises(SettingsError, match="gaps must be positive and grow"):
        study_recall(["copy"], ["lstm"], replace(SHORT, gaps=gaps), lambda result: None)


def test_results_come_by_task_and_cell(tmp_path: Path) -> None:
    """Each pair once, reported as it is found; the table and the picture hold them all."""
    seen: list[RecallResult] = []
    plan = replace(SHORT, max_steps=2)
    results = study_recall(["copy", "adding"], ["elman", "tdnn"], plan, seen.append)
    assert [(r.task, r.cell) for r in results] == [
        ("copy", "elman"), ("copy", "tdnn"), ("adding", "elman"), ("adding", "tdnn")
    ]  # fmt: skip
    assert seen == results
    assert recall_table(results).row_count == 4
    plot_recall(results, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
