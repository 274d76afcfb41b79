"""One training gives at every mark the result of a separate training of that length."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.studies.comparison.conftest import TINY_READING

from carousel_training.settings import Settings
from carousel_training.studies.comparison.jobs import Job, JobResult, Schedule
from carousel_training.studies.comparison.study_text import load_open_parts
from carousel_training.studies.comparison.training import build_trainer, run_job


def make_job(settings: Settings, marks: tuple[int, ...]) -> Job:
    return Job("a", settings, 0.0, Schedule(2, marks), TINY_READING, reads_test=True)


def losses(result: JobResult) -> list[tuple[int, float, float | None]]:
    return [(mark.step, mark.valid.nats, mark.test.nats if mark.test else None) for mark in result.marks]


@pytest.mark.parametrize("cell", ["lstm", "lstm-coupled"])
def test_a_mark_is_a_whole_training(comparison_settings: Settings, text_directory: Path, cell: str) -> None:
    """The result is bit-identical: weights, optimiser, carried state and masks return to the start of the cooldown."""
    model = comparison_settings.model.model_copy(update={"cell": cell, "dropout": 0.3})
    settings = comparison_settings.model_copy(update={"model": model})
    together = losses(run_job(make_job(settings, (6, 12, 24)), text_directory))
    alone = [losses(run_job(make_job(settings, (steps,)), text_directory))[0] for steps in (6, 12, 24)]
    assert together == alone
    assert together[2][1] < together[0][1]


def test_a_result_counts_what_was_done(comparison_settings: Settings, text_directory: Path) -> None:
    """Tokens of the mark, losses of two lanes of 50 and 60 tokens, blocks of 25 of them, growing seconds."""
    first, second = run_job(make_job(comparison_settings, (4, 8)), text_directory).marks
    assert (first.tokens, second.tokens) == (4 * 32, 8 * 32)
    assert 0.0 < first.core_seconds < second.core_seconds
    assert second.test is not None
    assert len(second.valid.lanes_B) == len(second.test.lanes_B) == 2
    assert len(second.valid.blocks_N) == 4
    assert len(second.test.blocks_N) == 6
    assert sum(second.test.blocks_N) == pytest.approx(120 * second.test.nats, rel=1e-4)


def test_seconds_are_those_of_a_training_that_went_straight_to_its_mark(
    comparison_settings: Settings, text_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that ticks once for each stretch of steps: the constant ones so far, and the mark's own cooldown."""
    ticks = itertools.count()
    monkeypatch.setattr("carousel_training.studies.comparison.training.time.process_time", lambda: float(next(ticks)))
    marks = run_job(make_job(comparison_settings, (4, 8, 12)), text_directory).marks
    assert [mark.core_seconds for mark in marks] == [2.0, 3.0, 4.0]


def test_a_network_begins_with_the_text_s_frequencies(comparison_settings: Settings, text_directory: Path) -> None:
    """As one of an ordinary training does."""
    trainer = build_trainer(comparison_settings, 0.0, text_directory)
    train_N = load_open_parts(text_directory)[0]
    shares_V = torch.bincount(train_N, minlength=len(trainer.model.output_bias)).clamp_min(1).double()
    expected_V = (shares_V / shares_V.sum()).log().float()
    assert trainer.model.output_bias.tolist() == pytest.approx(expected_V.tolist(), rel=1e-5)


def test_a_search_does_not_open_the_test_part(comparison_settings: Settings, text_directory: Path) -> None:
    """A search does not need the file of the test part."""
    (text_directory / "test.npy").unlink()
    searching = replace(make_job(comparison_settings, (4,)), reads_test=False)
    assert run_job(searching, text_directory).marks[0].test is None
    with pytest.raises(FileNotFoundError):
        run_job(make_job(comparison_settings, (4,)), text_directory)


def test_a_lost_loss_leaves_the_marks_before_it(comparison_settings: Settings, text_directory: Path) -> None:
    """A rate at which every cell diverges gives a result without marks, and no error."""
    optimizer = comparison_settings.optimizer.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})
    wild = comparison_settings.model_copy(update={"optimizer": optimizer})
    assert run_job(make_job(wild, (8,)), text_directory).marks == ()


def test_the_seed_decides_the_start(comparison_settings: Settings, text_directory: Path) -> None:
    """Equal seeds give equal losses, and other seeds give others."""
    other = comparison_settings.model_copy(update={"seed": 1})
    first, again, different = (
        losses(run_job(make_job(settings, (4,)), text_directory))
        for settings in (comparison_settings, comparison_settings, other)
    )
    assert first == again != different


def test_the_gate_shift_reaches_the_network(comparison_settings: Settings, text_directory: Path) -> None:
    """Two trainers that differ in nothing else have other biases, and the same weights."""
    plain = build_trainer(comparison_settings, 0.0, text_directory).model.state_dict()
    shifted = build_trainer(comparison_settings, 1.0, text_directory).model.state_dict()
    differing = [name for name in plain if not torch.equal(plain[name], shifted[name])]
    assert differing
    assert all("bias" in name for name in differing)
